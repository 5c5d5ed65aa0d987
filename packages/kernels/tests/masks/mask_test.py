"""Masks: their truth, their algebra, and what kernels recognise in them."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trellax.kernels.masks import CausalMask, FullMask, Mask, SegmentMask, SlidingWindowMask

ATOMS = st.one_of(
    st.just(FullMask()),
    st.just(CausalMask()),
    st.just(SegmentMask()),
    st.builds(SlidingWindowMask, st.integers(1, 9)),
)
MASKS = st.lists(ATOMS, min_size=1, max_size=4).map(
    functools.partial(functools.reduce, operator.and_)
)
POSITIONS = jnp.arange(9)[None]
SEGMENTS = jnp.asarray([[1, 1, 1, 2, 2, 3, 0, 0, 1], [1] * 9])


def dense(mask: Mask) -> np.ndarray:
    return np.asarray(
        jnp.broadcast_to(mask.dense(POSITIONS, POSITIONS, SEGMENTS, SEGMENTS), (2, 1, 9, 9))
    )


@given(MASKS, MASKS)
@settings(deadline=None, max_examples=40)
def test_conjunction_is_elementwise_and(a: Mask, b: Mask) -> None:
    np.testing.assert_array_equal(dense(a & b), dense(a) & dense(b))


@given(MASKS, MASKS, MASKS)
@settings(deadline=None)
def test_conjunction_is_canonical(a: Mask, b: Mask, c: Mask) -> None:
    assert a & b == b & a and hash(a & b) == hash(b & a)
    assert (a & b) & c == a & (b & c)
    assert a & a == a == a & FullMask()


@given(MASKS)
@settings(deadline=None, max_examples=40)
def test_properties_say_everything_about_an_exact_mask(mask: Mask) -> None:
    assert mask.is_exact
    distance = np.arange(9)[:, None] - np.arange(9)[None, :]
    expected = np.ones((2, 9, 9), bool)
    if mask.is_causal:
        expected &= distance >= 0
    if mask.window is not None:
        expected &= np.abs(distance) < mask.window
    if mask.uses_segments:
        ids = np.asarray(SEGMENTS)
        expected &= (ids[:, :, None] == ids[:, None, :]) & (ids[:, :, None] != 0)
    np.testing.assert_array_equal(dense(mask)[:, 0], expected)


def test_window_counts_the_query_itself() -> None:
    assert dense(SlidingWindowMask(3))[0, 0, 8].sum() == 3
    with pytest.raises(ValueError, match="at least 1"):
        SlidingWindowMask(0)


def test_segment_mask_without_segments_allows_all() -> None:
    assert (CausalMask() & SegmentMask()).dense(POSITIONS, POSITIONS).sum() == 45


def test_masks_are_static_under_jit() -> None:
    apply = jax.jit(lambda mask: mask.dense(POSITIONS, POSITIONS), static_argnums=0)
    assert apply(CausalMask() & SlidingWindowMask(2)).sum() == 17
