"""Small texts and configs that the tests of the input family share."""

from __future__ import annotations

import random
from typing import Any

from trellax.runtime.input import ByteTokenizer, DocumentSequences, InMemoryDocuments, Input

WORDS = "the of and to her was in it she that not be had as he with you for but is".split()


def texts(count: int, *, seed: int = 0, longest: int = 60) -> list[str]:
    """Returns texts of 0 to `longest` words; a few are empty."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, longest))) for _ in range(count)]


def in_memory(documents: list[str]) -> Any:
    """Returns the config of a source of `documents`."""
    return InMemoryDocuments.default_config().set(texts=documents)


def sequences(documents: list[str], **fields: Any) -> Any:
    """Returns the config of the rows of `documents`."""
    return DocumentSequences.default_config().set(documents=in_memory(documents), **fields)


def byte_input(documents: list[str], **fields: Any) -> Any:
    """Returns the config of an input over `documents` in bytes: B=4, S=32 unless set."""
    cfg = Input.default_config().set(
        tokenizer=ByteTokenizer.default_config(),
        dataset=sequences(documents),
        global_batch_size=4,
        sequence_length=32,
    )
    return cfg.set(**fields)
