"""The token store: what is read is what was encoded, and a damaged cache is made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.input.samples import in_memory, texts
from trellax.runtime.input import BpeTokenizer, ByteTokenizer, InMemoryDocuments, InputError
from trellax.runtime.input.token_store import TokenStore

TEXTS = texts(40, seed=3)


class CountingDocuments(InMemoryDocuments):
    """Counts the documents that are read, over all instances."""

    reads = 0

    def __getitem__(self, index: int) -> str:
        type(self).reads += 1
        return super().__getitem__(index)

    def fingerprint(self) -> str:
        return "counting"


def store(tokenizer: Any = None, documents: Any = None) -> TokenStore:
    tokenizer = tokenizer or ByteTokenizer.default_config()
    return TokenStore((documents or in_memory(TEXTS)).instantiate(), tokenizer.instantiate())


@pytest.mark.parametrize("vocab_size", [258, 70_000])
def test_the_store_holds_what_the_tokenizer_gave(vocab_size: int) -> None:
    cfg = BpeTokenizer.default_config().set(documents=in_memory(TEXTS), vocab_size=vocab_size)
    made, tokenizer = store(cfg), cfg.instantiate()
    for i, ids in enumerate(tokenizer.encode_batch(TEXTS)):
        assert made.lengths[i] == len(ids)
        np.testing.assert_array_equal(made.tokens(i, 0, len(ids)), ids)
        np.testing.assert_array_equal(made.tokens(i, 1, len(ids)), ids[1:])
        assert made.tokens(i, 0, 1).dtype == np.int32


def test_counts_are_of_all_ids_and_of_first_ids() -> None:
    made = store(documents=in_memory(["aab", "", "ba"]))
    occurrences, firsts = made.counts
    assert (occurrences[ord("a")], occurrences[ord("b")], occurrences.sum()) == (3, 2, 5)
    assert (firsts[ord("a")], firsts[ord("b")], firsts.sum()) == (1, 1, 2)


def test_a_corpus_without_a_token_is_refused() -> None:
    with pytest.raises(InputError, match="The 2 documents hold no token"):
        store(documents=in_memory(["", ""]))


def test_documents_are_tokenized_once() -> None:
    cfg = CountingDocuments.default_config().set(texts=TEXTS)
    store(documents=cfg)
    reads = CountingDocuments.reads
    assert reads == len(TEXTS)
    store(documents=cfg)
    assert CountingDocuments.reads == reads


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def change(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, change, Path.unlink])
@pytest.mark.parametrize("name", ["ids.bin", "offsets.npy", "counts.npy", "meta.json"])
def test_a_damaged_store_is_made_again(
    name: str, damage: Callable[[Path], None], cache_dir: Path
) -> None:
    good = store()
    (folder,) = (p for p in cache_dir.glob("tokens/*") if p.is_dir())
    content = (folder / name).read_bytes()
    damage(folder / name)
    again = store()
    np.testing.assert_array_equal(again.lengths, good.lengths)
    np.testing.assert_array_equal(again.counts, good.counts)
    if name != "meta.json":
        assert (folder / name).read_bytes() == content


def test_what_a_killed_process_left_is_not_used(cache_dir: Path) -> None:
    store()
    (folder,) = (p for p in cache_dir.glob("tokens/*") if p.is_dir())
    half = folder.with_name(f".{folder.name}-half")
    (half / "fresh").mkdir(parents=True)
    (folder / "meta.json").unlink()
    (folder / "counts.npy").unlink()
    assert store().counts.sum() > 0
