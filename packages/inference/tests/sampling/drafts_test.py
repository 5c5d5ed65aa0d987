"""Drafts are what a search of the whole history finds."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trellax.inference.sampling import NgramIndex, ngram_drafts


def searched(history: list[int], max_ngram: int, min_ngram: int, num_drafts: int) -> list[int]:
    """Looks at every place, the latest first, for the longest n-gram first."""
    for n in range(max_ngram, min_ngram - 1, -1):
        for start in range(len(history) - n - 1, -1, -1):
            if n <= len(history) and history[start : start + n] == history[-n:]:
                said = list(history)
                for i in range(num_drafts):
                    said.append(said[start + n + i])
                return said[len(history) :]
    return []


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    history=st.lists(st.integers(0, 3), max_size=40),
    lengths=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    num_drafts=st.integers(0, 8),
)
def test_drafts_follow_the_latest_of_the_longest_matches(
    history: list[int], lengths: tuple[int, int], num_drafts: int
) -> None:
    options = {"max_ngram": max(lengths), "min_ngram": min(lengths)}
    expected = searched(history, max(lengths), min(lengths), num_drafts)
    assert ngram_drafts(history, num_drafts=num_drafts, **options) == expected
    index = NgramIndex(**options)
    for i, token in enumerate(history):
        assert len(index) == i
        index.append(token)
    assert index.drafts(num_drafts) == expected


def test_what_repeats_is_drafted_on() -> None:
    assert ngram_drafts([9, 1, 2, 1, 2, 1, 2], num_drafts=5) == [1, 2, 1, 2, 1]
    assert ngram_drafts([1, 2, 3], num_drafts=5) == []


def test_a_long_history_costs_nothing_at_a_step() -> None:
    index = NgramIndex([i * i % 1009 for i in range(100_000)])
    start = time.perf_counter()
    for i in range(1000):
        index.append(i % 7)
        index.drafts(5)
    assert time.perf_counter() - start < 0.5, "0.5 ms a token is far beyond a few look-ups."


def test_lengths_that_cannot_match_are_refused() -> None:
    with pytest.raises(ValueError, match="min_ngram=3 must be at least 1 and at most max_ngram=2"):
        NgramIndex(max_ngram=2, min_ngram=3)
