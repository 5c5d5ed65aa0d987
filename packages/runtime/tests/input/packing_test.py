"""Rows: each token of an epoch stands in exactly one, with the right target, segment and position."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.input.samples import sequences
from trellax.runtime.input import ByteTokenizer, DocumentSequences
from trellax.runtime.input.packing import Layout, Span

lengths_lists = st.lists(st.integers(0, 30), min_size=1, max_size=20)
no_fixture_check = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


@given(lengths_lists, st.integers(1, 12), st.booleans(), st.randoms(use_true_random=False))
def test_spans_cover_every_token_once(
    lengths: list[int], S: int, pack: bool, random: object
) -> None:
    order = np.array(sorted(range(len(lengths)), key=lambda i: random.random()))  # type: ignore[attr-defined]
    layout = Layout(lengths, order, sequence_length=S, pack=pack)
    rows = [layout.spans(r) for r in range(layout.num_rows)]
    covered = Counter((s.document, t) for row in rows for s in row for t in range(s.start, s.stop))
    assert covered == Counter((d, t) for d, n in enumerate(lengths) for t in range(n))
    filled = [sum(s.stop - s.start for s in row) for row in rows]
    assert all(0 < n <= S for n in filled)
    if pack:
        assert all(n == S for n in filled[:-1])
    else:
        assert all(len(row) == 1 for row in rows)


def test_a_document_continues_in_the_next_row() -> None:
    layout = Layout([5, 2], np.array([1, 0]), sequence_length=4, pack=True)
    assert layout.spans(0) == [Span(1, 0, 2), Span(0, 0, 2)]
    assert layout.spans(1) == [Span(0, 2, 5)]
    assert layout.spans(2) == []


def dataset(texts: list[str], S: int, **fields: object) -> DocumentSequences:
    cfg = sequences(texts, sequence_length=S, seed=7, **fields)
    return cfg.instantiate(tokenizer=ByteTokenizer.default_config().instantiate())


def test_a_row_in_full() -> None:
    made = dataset(["abc", "", "d", "ef"], 6, shuffle=False)
    a, b, c, d, e, f, eos = *map(ord, "abcdef"), 257
    expected = [
        {
            "input_ids": [a, b, c, eos, d, eos],
            "target_ids": [b, c, eos, -1, eos, -1],
            "segment_ids": [1, 1, 1, 1, 2, 2],
            "positions": [0, 1, 2, 3, 0, 1],
        },
        {
            "input_ids": [e, f, eos, 0, 0, 0],
            "target_ids": [f, eos, -1, -1, -1, -1],
            "segment_ids": [1, 1, 1, 0, 0, 0],
            "positions": [0, 1, 2, 0, 0, 0],
        },
    ]
    for row, want in zip(made.rows(), expected, strict=True):
        assert {name: value.tolist() for name, value in row.items()} == want


def test_a_target_may_lie_in_the_next_row() -> None:
    first, second = dataset(["abcd"], 3, shuffle=False).rows()
    assert first["target_ids"].tolist() == [ord("b"), ord("c"), ord("d")]
    assert second["input_ids"].tolist() == [ord("d"), 257, 0]
    assert second["positions"].tolist() == [0, 1, 0]


def test_documents_may_have_rows_of_their_own() -> None:
    rows = list(dataset(["abcd", "e"], 4, shuffle=False, pack=False).rows())
    assert [r["segment_ids"].tolist() for r in rows] == [[1] * 4, [1, 0, 0, 0], [1, 1, 0, 0]]
    assert [r["positions"].tolist() for r in rows] == [[0, 1, 2, 3], [0] * 4, [0, 1, 0, 0]]


def test_bos_makes_the_first_token_a_target() -> None:
    (row,) = dataset(["ab"], 5, shuffle=False, add_bos=True).rows()
    assert row["input_ids"].tolist() == [256, ord("a"), ord("b"), 257, 0]
    assert row["target_ids"].tolist() == [ord("a"), ord("b"), 257, -1, -1]


documents_lists = st.lists(st.text("abcdef", max_size=25), min_size=1, max_size=12).filter(any)


@no_fixture_check
@given(documents_lists, st.integers(1, 9), st.booleans(), st.booleans(), st.booleans())
def test_an_epoch_holds_every_token_and_every_target_once(
    texts: list[str], S: int, pack: bool, shuffle: bool, bos: bool
) -> None:
    made = dataset(texts, S, pack=pack, shuffle=shuffle, add_bos=bos)
    rows = made.rows()
    begin = [256] if bos else []
    laid = [[*begin, *text.encode(), 257] for text in texts if text]
    for epoch in range(2):
        got = [rows[epoch * len(rows) + i] for i in range(len(rows))]
        inputs = np.concatenate([r["input_ids"][r["segment_ids"] > 0] for r in got])
        assert Counter(inputs.tolist()) == Counter(t for doc in laid for t in doc)
        targets = np.concatenate([r["target_ids"] for r in got])
        assert Counter(targets[targets >= 0].tolist()) == Counter(t for d in laid for t in d[1:])
        counts = np.bincount(targets[targets >= 0], minlength=258)
        np.testing.assert_allclose(made.target_frequencies(), counts / counts.sum(), atol=1e-12)


@no_fixture_check
@given(documents_lists, st.integers(2, 9), st.booleans())
def test_segments_positions_and_targets_agree(texts: list[str], S: int, pack: bool) -> None:
    for row in dataset(texts, S, pack=pack).rows():
        ids, targets, segments, positions = (row[n].tolist() for n in row)
        assert all(value.dtype == np.int32 and value.shape == (S,) for value in row.values())
        for i in range(S):
            if segments[i] == 0:
                assert (ids[i], targets[i], positions[i]) == (0, -1, 0)
                assert not any(segments[i:])
            elif i == 0 or segments[i] != segments[i - 1]:
                assert positions[i] == 0
                assert segments[i] == (segments[i - 1] + 1 if i else 1)
            else:
                assert positions[i] == positions[i - 1] + 1
                assert targets[i - 1] == ids[i]
            if ids[i] == 257:
                assert targets[i] == -1


def test_epochs_differ_in_the_order_of_documents_and_rows() -> None:
    made = dataset([f"document {i}" for i in range(50)], 16)
    rows = made.rows()
    epochs = [
        [rows[e * len(rows) + i]["input_ids"].tolist() for i in range(len(rows))] for e in (0, 1)
    ]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) != sorted(epochs[1])  # Not the same rows in another order.
    seeds = [made.rows()[0], dataset([f"document {i}" for i in range(50)], 16).rows()[0]]
    np.testing.assert_array_equal(seeds[0]["input_ids"], seeds[1]["input_ids"])


def test_bos_needs_a_tokenizer_that_has_one() -> None:
    tokenizer = ByteTokenizer.default_config().instantiate()
    tokenizer.bos_id = None
    with pytest.raises(ValueError, match="the tokenizer has no bos"):
        sequences(["a"], sequence_length=4, seed=0, add_bos=True).instantiate(tokenizer=tokenizer)
