"""`TokenStore`: a corpus as token ids, made once and then read in place (memory-mapped).

    store = TokenStore(documents, tokenizer)
    store.tokens(document=3, start=0, stop=10)

| file        | content                                                              |
|-------------|----------------------------------------------------------------------|
| ids.bin     | the ids of all documents one after another; uint16, uint32 if needed |
| offsets.npy | int64 [documents + 1]: where each document begins in ids.bin         |
| counts.npy  | int64 [2, V]: how often each id occurs; how often it begins a document |
| meta.json   | size and checksum of the other three                                 |

V vocabulary.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from trellax.runtime.input.cache import made_once
from trellax.runtime.input.documents import DocumentSource
from trellax.runtime.input.errors import InputError
from trellax.runtime.input.files import digest
from trellax.runtime.input.tokenizer import TokenIds, Tokenizer

Lengths = Int64[np.ndarray, "documents"]
Counts = Int64[np.ndarray, "2 V"]

_BATCH_CHARACTERS = 4_000_000
_FULLY_CHECKED_BYTES = 256 << 20
_FILES = ("ids.bin", "offsets.npy", "counts.npy")


class TokenStore:
    """The token ids of a corpus, without bos and eos. Reading is safe from any thread.

    Attributes:
        lengths: int64 [documents], tokens of each document; a document may have none.
        counts: int64 [2, V], how often each id occurs, and how often it begins a document.
    """

    lengths: Lengths
    counts: Counts

    def __init__(self, documents: DocumentSource, tokenizer: Tokenizer):
        """Opens the cached store, made first if there is none or it is damaged.

        A file over 256 MiB is known by its size alone; smaller ones by their checksum.

        Raises:
            InputError: if a document cannot be read, or there is no token at all.
        """
        key = digest("tokens 1", documents.fingerprint(), tokenizer.fingerprint())
        make = functools.partial(_make, documents, tokenizer)
        folder = made_once("tokens", key, make=make, is_good=_is_good)
        self._offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        self.counts = np.load(folder / "counts.npy")
        self.lengths = np.diff(self._offsets)
        if not self.lengths.any():
            raise InputError(f"The {len(self.lengths)} documents hold no token.")
        dtype = _dtype(tokenizer.vocab_size)
        self._ids = np.memmap(folder / "ids.bin", dtype, mode="r")

    def tokens(self, document: int, start: int, stop: int) -> TokenIds:
        """Returns ids `start` to `stop` of a document, int32."""
        begin = int(self._offsets[document])
        return np.array(self._ids[begin + start : begin + stop], np.int32)


def _dtype(vocab_size: int) -> type[np.unsignedinteger]:
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def _make(documents: DocumentSource, tokenizer: Tokenizer, folder: Path) -> None:
    counts = np.zeros((2, tokenizer.vocab_size), np.int64)
    lengths = []
    with (folder / "ids.bin").open("wb") as f:
        for texts in _batches(documents):
            encoded = tokenizer.encode_batch(texts)
            ids = np.concatenate(encoded)
            counts[0] += np.bincount(ids, minlength=tokenizer.vocab_size)
            firsts = np.array([e[0] for e in encoded if len(e)], np.int64)
            counts[1] += np.bincount(firsts, minlength=tokenizer.vocab_size)
            lengths += [len(e) for e in encoded]
            f.write(ids.astype(_dtype(tokenizer.vocab_size)).tobytes())
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    np.save(folder / "counts.npy", counts)
    meta = {name: [(folder / name).stat().st_size, _checksum(folder / name)] for name in _FILES}
    (folder / "meta.json").write_text(json.dumps(meta))


def _batches(documents: DocumentSource) -> Iterator[list[str]]:
    """Yields documents in groups that are large enough to be tokenized in parallel."""
    texts: list[str] = []
    characters = 0
    for text in documents:
        texts.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield texts
            texts, characters = [], 0
    if texts:
        yield texts


def _checksum(file: Path) -> int:
    if file.stat().st_size > _FULLY_CHECKED_BYTES:
        return 0
    return zlib.crc32(file.read_bytes())


def _is_good(folder: Path) -> bool:
    try:
        meta = json.loads((folder / "meta.json").read_text())
        sizes_fit = all((folder / name).stat().st_size == meta[name][0] for name in _FILES)
        return sizes_fit and all(_checksum(folder / name) == meta[name][1] for name in _FILES)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
