"""`Input`: batch i is the same however it is asked for and however many processes share it."""

from __future__ import annotations

import contextlib
import itertools
import math
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from tests.input.samples import byte_input, in_memory, sequences, texts
from trellax.config import ConfigError
from trellax.runtime.input import Batch, BpeTokenizer, MixtureSequences

TEXTS = texts(30, seed=1)


def mixed() -> Any:
    parts = {"a": sequences(texts(9, seed=2)), "b": sequences(texts(20, seed=3))}
    return MixtureSequences.default_config().set(components=parts, weights={"a": 0.7, "b": 0.3})


INPUTS = {
    "packed": byte_input(TEXTS),
    "one pass": byte_input(TEXTS, repeat=False),
    "mixed": byte_input(TEXTS, dataset=mixed()),
    "separate": byte_input(TEXTS, dataset=sequences(TEXTS, pack=False)),
}


def assert_equal(a: Batch, b: Batch) -> None:
    assert set(a) == set(b) == {"input_ids", "target_ids", "segment_ids", "positions"}
    for name in a:
        assert a[name].dtype == np.int32
        np.testing.assert_array_equal(a[name], b[name])


def some_indices(reader: Any) -> list[int]:
    epoch = reader.num_batches_per_epoch
    later = [epoch, 3 * epoch + 1, 10_000_019] if reader.cfg.repeat else []
    return [0, 1, epoch - 1, *later]


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_processes_share_one_batch(kind: str, num_processes: int) -> None:
    whole = INPUTS[kind].instantiate()
    parts = [
        INPUTS[kind].instantiate(process_index=p, num_processes=num_processes)
        for p in range(num_processes)
    ]
    for i in some_indices(whole):
        rows = [part.batch(i) for part in parts]
        assert rows[0]["input_ids"].shape == (4 // num_processes, 32)
        assert_equal({n: np.concatenate([r[n] for r in rows]) for n in rows[0]}, whole.batch(i))


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_iterating_equals_asking(kind: str, threads: int) -> None:
    reader = INPUTS[kind].clone(prefetch_threads=threads).instantiate()
    for start in (0, 5):
        with contextlib.closing(reader.batches(start)) as batches:
            for i, batch in enumerate(itertools.islice(batches, 20), start):
                assert_equal(batch, reader.batch(i))


def test_iteration_may_start_anywhere() -> None:
    reader = byte_input(TEXTS).instantiate()
    far = 7 * reader.num_batches_per_epoch + 3
    with contextlib.closing(reader.batches(far)) as batches:
        assert_equal(next(batches), reader.batch(far))


def test_equal_configs_give_equal_batches_and_other_seeds_others() -> None:
    a, b = byte_input(TEXTS).instantiate(), byte_input(TEXTS).instantiate()
    c = byte_input(TEXTS, seed=1).instantiate()
    assert_equal(a.batch(3), b.batch(3))
    assert (a.batch(3)["input_ids"] != c.batch(3)["input_ids"]).any()


def test_another_seed_is_not_another_epoch() -> None:
    a = byte_input(TEXTS, global_batch_size=1).instantiate()
    b = byte_input(TEXTS, global_batch_size=1, seed=1).instantiate()
    n = a.num_batches_per_epoch
    second = [a.batch(n + i)["input_ids"].tolist() for i in range(n)]
    assert second != [b.batch(i)["input_ids"].tolist() for i in range(n)]


def test_asking_from_many_threads_is_safe() -> None:
    reader = byte_input(TEXTS).instantiate()
    expected = [reader.batch(i) for i in range(200)]
    fresh = byte_input(TEXTS).instantiate()
    got: dict[int, Batch] = {}

    def read(first: int) -> None:
        for i in range(first, 200, 4):
            got[i] = fresh.batch(i)

    threads = [threading.Thread(target=read, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(200):
        assert_equal(got[i], expected[i])


def test_batches_do_not_change_when_a_reader_writes_into_one() -> None:
    reader = byte_input(["ab"], repeat=False).instantiate()
    reader.batch(0)["input_ids"][:] = 99
    assert (reader.batch(0)["input_ids"] != 99).all()


def test_one_pass_reads_every_target_once_and_pads_the_last_batch() -> None:
    reader = byte_input(TEXTS, repeat=False, global_batch_size=7).instantiate()
    batches = list(reader.batches())
    assert len(batches) == reader.num_batches_per_epoch
    assert all(b["input_ids"].shape == (7, 32) for b in batches)
    targets = sum((b["target_ids"] >= 0).sum() for b in batches)
    assert targets == sum(len(t) for t in TEXTS)  # All but the first character, and eos.
    padding = batches[-1]["segment_ids"].sum(axis=1) == 0
    assert padding.any()
    assert (batches[-1]["target_ids"][padding] == -1).all()


def test_there_is_no_batch_beyond_a_single_pass() -> None:
    reader = byte_input(TEXTS, repeat=False).instantiate()
    end = reader.num_batches_per_epoch
    for outside in (-1, end):
        with pytest.raises(IndexError):
            reader.batch(outside)
    assert list(reader.batches(end)) == []
    assert len(list(reader.batches(end - 1))) == 1


def test_the_spec_describes_the_global_batch() -> None:
    cfg = byte_input(TEXTS)
    reader = cfg.instantiate()
    whole = reader.batch(0)
    for spec in (cfg.batch_spec(), reader.batch_spec()):
        assert {n: (s.shape, s.dtype) for n, s in spec.items()} == {
            n: (v.shape, v.dtype) for n, v in whole.items()
        }


def test_entropy_is_that_of_the_targets() -> None:
    reader = byte_input(["abab"] * 8).instantiate()  # Targets of each: b a b eos.
    expected = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert reader.unigram_entropy() == pytest.approx(expected)


def test_the_tokenizer_is_at_hand() -> None:
    bpe = BpeTokenizer.default_config().set(documents=in_memory(TEXTS), vocab_size=280)
    reader = byte_input(TEXTS, tokenizer=bpe).instantiate()
    assert reader.vocab_size == 280
    row = reader.batch(0)["input_ids"][0]
    assert row.max() < 280
    assert reader.tokenizer.decode(row).strip()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"global_batch_size": 0}, "global_batch_size is 0"),
        ({"sequence_length": -1}, "sequence_length is -1"),
        ({"prefetch_threads": 9}, "prefetch_threads=9 must lie between"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        byte_input(TEXTS, **fields).instantiate()


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="global_batch_size=4 does not divide among 3 processes"):
        byte_input(TEXTS).instantiate(process_index=0, num_processes=3)


def test_importing_the_package_loads_no_reader_of_data() -> None:
    program = (
        "import sys, trellax.runtime.input; "
        "heavy = {'grain', 'tokenizers', 'pyarrow', 'array_record'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
