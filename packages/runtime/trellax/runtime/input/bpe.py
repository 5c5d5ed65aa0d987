"""Tokenizers of the `tokenizers` library: trained here from documents, or read from a file.

    BpeTokenizer.default_config().set(documents=training_text, vocab_size=4096)
    FileTokenizer.default_config().set(file="tokenizer.json", eos_token="</s>")

Byte-level BPE: Sennrich et al. 2016 (arXiv:1508.07909) over bytes, words split as in GPT-2
(Radford et al. 2019, section 2.2). Every text can be encoded; there is no unknown token.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trellax.config import REQUIRED, Required
from trellax.runtime.input.cache import made_once
from trellax.runtime.input.documents import DocumentSource
from trellax.runtime.input.errors import InputError
from trellax.runtime.input.files import digest
from trellax.runtime.input.tokenizer import TokenIds, Tokenizer

_BOS, _EOS = "<bos>", "<eos>"
_NUM_BYTES_AND_SPECIALS = 256 + 2
_FILE = "tokenizer.json"


class _LibraryTokenizer(Tokenizer):
    """A tokenizer that a `tokenizer.json` file describes in full."""

    _library: Any

    def _load(self, file: Path) -> None:
        import tokenizers  # Imported here, for runs that use another tokenizer.

        try:
            self._library = tokenizers.Tokenizer.from_file(str(file))
        except Exception as e:  # The library raises plain Exception.
            raise InputError(f"{file}: not a tokenizer.json file ({e}).") from None
        # A document that spells out "<eos>" means these five characters, not the end.
        self._library.encode_special_tokens = True

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        ids = np.asarray(ids, np.int64).tolist()
        return self._library.decode(ids, skip_special_tokens=True)

    @functools.cached_property
    def _json(self) -> str:
        return self._library.to_str()

    def fingerprint(self) -> str:
        return digest(self._json)

    def save(self, file: Path) -> None:
        """Writes the vocabulary as a `tokenizer.json`, which `FileTokenizer` reads."""
        file.write_text(self._json, encoding="utf-8")


class BpeTokenizer(_LibraryTokenizer):
    """Byte-level BPE, trained on first use and then cached.

    Training is deterministic: the same documents and settings give the same vocabulary. A corpus
    too small for the vocabulary gives fewer merges; the ids that are left over never occur.
    """

    class Config(_LibraryTokenizer.Config):
        """What to train.

        Attributes:
            documents: the text to train on; evaluation text does not belong in it.
            vocab_size: number of ids, at least 258 (the bytes, bos and eos).
            max_characters: training stops reading here; the first documents are used.
        """

        documents: Required[DocumentSource.Config] = REQUIRED
        vocab_size: Required[int] = REQUIRED
        max_characters: int = 100_000_000

        def check(self) -> None:
            if self.vocab_size < _NUM_BYTES_AND_SPECIALS:
                raise ValueError(
                    f"vocab_size is {self.vocab_size}; the bytes, bos and eos alone need "
                    f"{_NUM_BYTES_AND_SPECIALS}."
                )

    cfg: Config

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        documents: DocumentSource = cfg.documents.instantiate()
        key = digest("bpe 1", documents.fingerprint(), f"{cfg.vocab_size} {cfg.max_characters}")
        make = functools.partial(_train, cfg, documents)
        self._load(made_once("tokenizers", key, make=make, is_good=_is_good) / _FILE)
        self.vocab_size = cfg.vocab_size
        self.bos_id: int | None = self._library.token_to_id(_BOS)
        self.eos_id = self._library.token_to_id(_EOS)


class FileTokenizer(_LibraryTokenizer):
    """The tokenizer of a `tokenizer.json` file, such as published models come with."""

    class Config(_LibraryTokenizer.Config):
        """The file.

        Attributes:
            file: its path.
            eos_token: the token that ends a document, as the file spells it: "</s>".
            bos_token: the token that begins one, or None if the model has none: "<s>".
        """

        file: Required[str] = REQUIRED
        eos_token: Required[str] = REQUIRED
        bos_token: str | None = None

    cfg: Config

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        file = Path(cfg.file).expanduser()
        if not file.is_file():
            raise InputError(f"{file}: no such file; set `file` to the model's tokenizer.json.")
        self._load(file)
        self.vocab_size = max(self._library.get_vocab().values()) + 1
        self.bos_id = None if cfg.bos_token is None else self._id_of(cfg.bos_token)
        self.eos_id = self._id_of(cfg.eos_token)

    def _id_of(self, token: str) -> int:
        found = self._library.token_to_id(token)
        if found is None:
            known = [t.content for t in self._library.get_added_tokens_decoder().values()]
            shown = ", ".join(map(repr, known[:12])) or "none"
            raise InputError(f"{self.cfg.file}: no token {token!r}; its special tokens: {shown}.")
        return int(found)


def _train(cfg: BpeTokenizer.Config, documents: DocumentSource, folder: Path) -> None:
    from tokenizers import Tokenizer as LibraryTokenizer
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = LibraryTokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=cfg.vocab_size,
        special_tokens=[_BOS, _EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(_up_to(documents, cfg.max_characters), trainer)
    (folder / _FILE).write_text(library.to_str(), encoding="utf-8")
    (folder / "digest").write_text(digest((folder / _FILE).read_bytes()))


def _is_good(folder: Path) -> bool:
    try:
        return (folder / "digest").read_text() == digest((folder / _FILE).read_bytes())
    except OSError:
        return False


def _up_to(documents: DocumentSource, max_characters: int) -> Iterator[str]:
    left = max_characters
    for document in documents:
        if left <= 0:
            return
        yield document[:left]
        left -= len(document)
