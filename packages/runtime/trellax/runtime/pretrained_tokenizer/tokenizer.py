"""`PretrainedTokenizer`: what a server needs to know of a model's tokenizer.

    tokenizer = read_tokenizer(folder)
    ids = tokenizer.encode("<|im_start|>user\\nHi<|im_end|>\\n")
    tokenizer.decode(ids), tokenizer.token_bytes(ids[0]), tokenizer.eos_ids

Shapes: T tokens of one text. Ids are int32.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from trellax.config import REQUIRED, Required
from trellax.runtime.input import Tokenizer
from trellax.runtime.pretrained_tokenizer.folder import folder_parts
from trellax.runtime.pretrained_tokenizer.parts import TokenizerError, TokenizerParts
from trellax.runtime.pretrained_tokenizer.token_bytes import bytes_of_tokens


class PretrainedTokenizer(Tokenizer):
    """A published model's tokenizer.

    Unlike tokenizers of training text, it reads special tokens that a text spells out, unless told otherwise.

    Attributes:
        chat_template: Jinja template of conversations, or None.
        special_tokens: {"bos_token": "<s>", …}, for the template.
        eos_ids: all ids that end a text.
    """

    class Config(Tokenizer.Config):
        """Where it is.

        Attributes:
            source: a Hugging Face folder.
        """

        source: Required[str] = REQUIRED

    cfg: Config
    chat_template: str | None
    special_tokens: dict[str, str]
    eos_ids: frozenset[int]

    def __init__(self, cfg: Config, *, parts: TokenizerParts | None = None) -> None:
        """
        Args:
            cfg: where it is.
            parts: takes the place of what is there.
        """
        super().__init__(cfg)
        parts = folder_parts(cfg.source) if parts is None else parts
        self._parts = parts
        self._library = parts.library
        self.chat_template = parts.chat_template
        self.special_tokens = dict(parts.special_tokens)
        self.vocab_size = max(self._library.get_vocab(with_added_tokens=True).values()) + 1
        self.bos_id = self._id_of("bos_token")
        eos_id = self._id_of("eos_token")
        self.eos_ids = parts.eos_ids | frozenset(() if eos_id is None else (eos_id,))
        if not self.eos_ids:
            raise TokenizerError(
                f"{parts.source} names no end token; set eos_token_id in generation_config.json."
            )
        self.eos_id = min(self.eos_ids) if eos_id is None else eos_id
        added = self._library.get_added_tokens_decoder().items()
        self._special_ids = frozenset(token_id for token_id, token in added if token.special)

    @classmethod
    def of(cls, parts: TokenizerParts) -> PretrainedTokenizer:
        """Returns the tokenizer that is made of `parts`."""
        return cls(cls.Config(source=parts.source), parts=parts)

    # ---- text and ids -----------------------------------------------------------------------------

    def encode(
        self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True
    ) -> np.ndarray:
        """Returns the ids of a text, int32 [T].

        Args:
            text: any text.
            add_special_tokens: whether to put those before and after it that the model expects there.
            parse_special: whether a special token that the text spells out is that token; else it is its characters.
        """
        (ids,) = self.encode_batch(
            [text], add_special_tokens=add_special_tokens, parse_special=parse_special
        )
        return ids

    def encode_batch(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = False,
        parse_special: bool = True,
    ) -> list[np.ndarray]:
        """Returns the ids of each text; see `encode`."""
        library = self._library if parse_special else self._literal_library
        explicit = add_special_tokens and self._parts.adds_bos is not None
        by_library = add_special_tokens and not explicit
        encodings = library.encode_batch_fast(list(texts), add_special_tokens=by_library)
        before, after = self._around if explicit else ([], [])
        return [np.array([*before, *encoding.ids, *after], np.int32) for encoding in encodings]

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special_tokens: bool = True) -> str:
        """Returns the text of some ids.

        Ids that end within a character give U+FFFD there.
        """
        ids = np.asarray(ids, np.int64).tolist()
        return self._library.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the bytes that a token stands for, UTF-8 or a part of it; b"" for ids that no text gives."""
        known = self._bytes
        return known[token_id] if 0 <= token_id < len(known) else b""

    def is_special(self, token_id: int) -> bool:
        """Whether a token steers the model and is no text."""
        return token_id in self._special_ids

    # ---- the whole --------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Returns the contents of a `tokenizer.json`."""
        return self._json

    def added_around(self) -> dict[str, bool]:
        """Returns "add_bos_token" and "add_eos_token", where `to_json` does not say it."""
        if self._parts.adds_bos is None:
            return {}
        return {"add_bos_token": self._parts.adds_bos, "add_eos_token": self._parts.adds_eos}

    def fingerprint(self) -> str:
        return hashlib.sha256(self._json.encode()).hexdigest()

    @functools.cached_property
    def _json(self) -> str:
        return self._library.to_str()

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        return bytes_of_tokens(self._library)

    @functools.cached_property
    def _literal_library(self) -> Any:
        """Reads special tokens as characters; a copy, as the setting is not one call's."""
        copy = type(self._library).from_str(self._json)
        copy.encode_special_tokens = True
        return copy

    @functools.cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        before = [self.bos_id] if self._parts.adds_bos and self.bos_id is not None else []
        return before, [self.eos_id] if self._parts.adds_eos else []

    def _id_of(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        if token is None:
            return None
        found = self._library.token_to_id(token)
        if found is None:
            raise TokenizerError(f"{self._parts.source}: {name} is {token!r}, which is no token.")
        return int(found)


def read_tokenizer(folder: str | os.PathLike[str]) -> PretrainedTokenizer:
    """Returns the tokenizer of a Hugging Face folder.

    Raises:
        TokenizerError: if there is none that can be read.
    """
    return PretrainedTokenizer.of(folder_parts(folder))
