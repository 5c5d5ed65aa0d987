"""`Tokenizer`: text to token ids and back; and the tokenizer that needs no vocabulary.

    tokenizer = ByteTokenizer.default_config().instantiate()
    tokenizer.decode(tokenizer.encode("Anne"))  # "Anne"

Shapes: T tokens of one text. Ids are int32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from trellax.config import Configurable

TokenIds = Int32[np.ndarray, "T"]


class Tokenizer(Configurable):
    """Interface of all tokenizers. What `encode` returns holds neither `bos_id` nor `eos_id`.

    Attributes:
        vocab_size: one more than the largest id that can occur.
        bos_id: id that may begin a document, or None.
        eos_id: id that ends every document.
    """

    class Config(Configurable.Config):
        """Fields of every tokenizer: none."""

    vocab_size: int
    bos_id: int | None
    eos_id: int

    def encode(self, text: str) -> TokenIds:
        """Returns the ids of `text`, int32 [T]."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Returns the ids of each text."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of `ids`; `bos_id` and `eos_id` stand for no text.

        Ids that end within a character give U+FFFD there.
        """
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Returns a digest of the mapping: what is made of the ids is cached under it."""
        raise NotImplementedError


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes are the ids 0 to 255; 256 begins and 257 ends a document."""

    cfg: Tokenizer.Config
    vocab_size = 258
    bos_id: int | None = 256
    eos_id = 257

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        ids = np.asarray(ids, np.int32)
        return ids[ids < 256].astype(np.uint8).tobytes().decode(errors="replace")

    def fingerprint(self) -> str:
        return "bytes"
