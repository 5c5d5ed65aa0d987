"""Whole numbers of 48 bits calculate as Python's, and random ones are uniform."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trellax.inference.sampling.fixed_point import (
    Fraction,
    Wide,
    as_fraction,
    pick,
    random_fraction,
    wide_fraction,
    wide_less,
    wide_subtract,
    wide_sum,
    widen,
)

numbers = st.integers(0, 2**48 - 1)


def wide(*values: int) -> Wide:
    return Wide(
        jnp.asarray([v >> 16 for v in values], jnp.uint32),
        jnp.asarray([v & 0xFFFF for v in values], jnp.uint32),
    )


def whole(value: Wide) -> list[int]:
    return [(int(high) << 16) + int(low) for high, low in zip(*value, strict=True)]


def fraction(value: int) -> Fraction:
    return Fraction(*(jnp.asarray([value >> s & 0xFFFF], jnp.uint32) for s in (32, 16, 0)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(a=numbers, b=numbers)
def test_numbers_compare_subtract_and_multiply_exactly(a: int, b: int) -> None:
    assert bool(wide_less(wide(a), wide(b))[0]) == (a < b)
    assert whole(wide_subtract(wide(max(a, b)), wide(min(a, b)))) == [abs(a - b)]
    assert whole(wide_fraction(wide(a), fraction(b))) == [a * b >> 48]
    assert whole(wide_fraction(wide(a), fraction(b), round_up=True)) == [-(-a * b >> 48)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(2.0**-24, 1, exclude_max=True, width=32))
def test_float32_thresholds_become_fractions_exactly(value: float) -> None:
    first, second, third = (int(part[0]) for part in as_fraction(jnp.float32([value])))
    assert (first << 32) + (second << 16) + third == int(value * 2**48)


def test_a_vocabulary_of_the_greatest_weights_is_summed_exactly() -> None:
    columns_RC = jnp.full((1, 2**14), 2**31, jnp.uint32)
    assert whole(wide_sum(widen(columns_RC))) == [2**45]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(values=st.lists(st.integers(0, 2**32 - 1), min_size=8, max_size=8), share=numbers)
def test_every_number_picks_the_interval_that_it_falls_into(values: list[int], share: int) -> None:
    target = sum(values) * share >> 48
    index_R, rest = pick(widen(jnp.asarray([values], jnp.uint32)), wide(target))
    ends = np.cumsum(values)
    expected = min(int((ends <= target).sum()), 7)
    assert int(index_R[0]) == expected
    assert whole(rest) == [target - int(ends[expected] - values[expected])]


def test_random_fractions_are_uniform_and_differ_by_seed_step_counter_and_purpose() -> None:
    ids = jnp.arange(2**16)
    zeros = jnp.zeros_like(ids)
    draws = {
        "seed": random_fraction(ids.astype(jnp.uint32), zeros, counter=0, purpose=0),
        "step": random_fraction(zeros.astype(jnp.uint32), ids, counter=0, purpose=0),
        "counter": random_fraction(ids.astype(jnp.uint32), zeros, counter=1, purpose=0),
        "purpose": random_fraction(ids.astype(jnp.uint32), zeros, counter=0, purpose=1),
    }
    for part in (part for one in draws.values() for part in one):
        counts = np.bincount(np.asarray(part) >> 8, minlength=256)
        chi_square = ((counts - 256) ** 2 / 256).sum()
        assert abs(chi_square - 255) < 4 * np.sqrt(2 * 255)
    values = np.stack([np.asarray(one.first, np.float64) for one in draws.values()])
    correlations = np.corrcoef(np.concatenate([values, np.roll(values, 1, axis=1)]))
    assert np.abs(correlations - np.eye(8)).max() < 4 / np.sqrt(2**16)


def test_random_fractions_stay_what_they_are() -> None:
    """A request with a seed draws the same tokens in every version."""
    got = random_fraction(jnp.uint32([7]), jnp.int32([3]), counter=1, purpose=2)
    assert [int(part[0]) for part in got] == [63156, 12953, 52917]
