"""Mixtures: shares hold on every prefix, components keep their own epochs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.input.samples import sequences
from trellax.config import ConfigError
from trellax.runtime.input import ByteTokenizer, MixtureSequences
from trellax.runtime.input.mixture import Schedule, shares


def named(weights: list[float]) -> dict[str, float]:
    return {str(k): w for k, w in enumerate(weights)}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6))
def test_shares_hold_to_within_a_row_on_every_prefix(weights: list[float]) -> None:
    exact = np.array(weights) / sum(weights)
    whole = shares(named(weights))
    assert whole.sum() == 10_000
    assert np.abs(whole / 10_000 - exact).max() <= 1e-4
    schedule = Schedule(whole, [10**9] * len(weights))
    drawn = np.array([schedule[n][0] for n in range(10_000)])
    for k, share in enumerate(whole / 10_000):
        counts = np.cumsum(drawn == k)
        assert np.abs(counts - share * np.arange(1, 10_001)).max() < 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 10**12))
def test_rows_of_a_component_come_in_order_without_gaps(weights: list[int], start: int) -> None:
    schedule = Schedule(shares(named([float(w) for w in weights])), [10**9] * len(weights))
    seen: dict[int, int] = {}
    for n in range(start, start + 200):
        component, row = schedule[n]
        assert seen.get(component, row - 1) == row - 1
        seen[component] = row
    if not start:
        assert all(schedule[n][1] == 0 for n in [0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0.05, 1.0), st.integers(1, 300)), min_size=1, max_size=4))
def test_an_epoch_ends_before_any_component_repeats(parts: list[tuple[float, int]]) -> None:
    lengths = [length for _, length in parts]
    schedule = Schedule(shares(named([weight for weight, _ in parts])), lengths)
    assert all(row < lengths[k] for k, row in (schedule[n] for n in range(len(schedule))))
    component, row = schedule[len(schedule)]
    assert row == lengths[component]


def mixture(**fields: Any) -> Any:
    cfg = MixtureSequences.default_config().set(
        components={"a": sequences(["a" * 50] * 9), "b": sequences(["b" * 50] * 4)},
        weights={"a": 3.0, "b": 1.0},
        sequence_length=16,
        seed=0,
    )
    return cfg.set(**fields)


def built(cfg: Any) -> Any:
    return cfg.instantiate(tokenizer=ByteTokenizer.default_config().instantiate())


def test_rows_come_from_the_components() -> None:
    made = built(mixture())
    rows = made.rows()
    sources = Counter("ab"[ord("b") in rows[n]["input_ids"]] for n in range(400))
    assert sources == {"a": 300, "b": 100}
    frequencies = made.target_frequencies()
    assert frequencies.sum() == pytest.approx(1)
    assert frequencies[ord("a")] == pytest.approx(3 * frequencies[ord("b")])


def test_mixtures_may_hold_mixtures() -> None:
    outer = mixture(components={"a": mixture(sequence_length=16, seed=0), "b": sequences(["c"])})
    inner = outer.components["a"]
    inner.set(sequence_length=16, seed=0)
    assert built(outer).rows()[0]["input_ids"].shape == (16,)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.0}, r"components are \['a', 'b'\] but weights are given for \['a'\]"),
        ({"a": 1.0, "b": 0.0}, "weights must be positive numbers"),
        ({"a": 1.0, "b": float("nan")}, "weights must be positive numbers"),
        ({"a": 1.0, "b": 1e-6}, "under 1/10000 of the sum"),
    ],
)
def test_bad_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(mixture(weights=weights))
