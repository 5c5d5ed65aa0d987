"""A shape pattern moves every element where it says, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellax.layers.weight_names import ShapePattern

SIZES = {"A": 2, "B": 3, "C": 5, "N": 4, "4": 4, "7": 7}


@st.composite
def patterns(draw: Any) -> tuple[str, tuple[int, ...]]:
    """Draws a pattern and the shape of our array; a dim of ours has at most one letter."""
    axes = draw(
        st.permutations(draw(st.lists(st.sampled_from(list(SIZES)), min_size=1, unique=True)))
    )
    theirs = grouped(draw, draw(st.permutations(axes)), lambda group: True)
    ours = grouped(draw, axes, lambda group: sum(axis.isalpha() for axis in group) <= 1)
    shape = tuple(int(np.prod([SIZES[axis] for axis in dim])) for dim in ours)
    return f"{written(theirs)} -> {written(ours)}", shape


def grouped(draw: Any, axes: list[str], is_allowed: Any) -> list[list[str]]:
    dims: list[list[str]] = []
    for axis in axes:
        if dims and is_allowed([*dims[-1], axis]) and draw(st.booleans()):
            dims[-1].append(axis)
        else:
            dims.append([axis])
    return dims


def written(dims: list[list[str]]) -> str:
    return " ".join(dim[0] if len(dim) == 1 else f"({' '.join(dim)})" for dim in dims)


# ---- parity ------------------------------------------------------------------------------------------


def test_heads_are_split_and_moved_as_by_hand() -> None:
    pattern = ShapePattern("(N H) D -> D N H").bound((6, 2, 5))
    theirs = np.arange(60).reshape(10, 6)
    assert pattern.their_shape == (10, 6)
    np.testing.assert_array_equal(
        pattern.to_ours(theirs), theirs.reshape(2, 5, 6).transpose(2, 0, 1)
    )


def test_interleaved_pairs_become_halves_as_by_hand() -> None:
    pattern = ShapePattern("(N R 2) D -> D N (2 R)").bound((3, 2, 8))
    theirs = np.arange(48).reshape(16, 3)
    halves = theirs.reshape(2, 4, 2, 3).swapaxes(1, 2).reshape(2, 8, 3)
    np.testing.assert_array_equal(pattern.to_ours(theirs), halves.transpose(2, 0, 1))


# ---- properties --------------------------------------------------------------------------------------


@given(patterns())
def test_there_and_back_is_the_identity(drawn: tuple[str, tuple[int, ...]]) -> None:
    text, shape = drawn
    pattern = ShapePattern(text).bound(shape)
    theirs = np.arange(np.prod(shape)).reshape(pattern.their_shape)
    ours = pattern.to_ours(theirs)
    assert ours.shape == shape == pattern.our_shape
    np.testing.assert_array_equal(pattern.to_theirs(ours), theirs)


@given(patterns(), st.data())
def test_a_part_of_ours_is_found_in_theirs(drawn: tuple[str, tuple[int, ...]], data: Any) -> None:
    text, shape = drawn
    pattern = ShapePattern(text).bound(shape)
    theirs = np.arange(np.prod(shape)).reshape(pattern.their_shape)
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in shape]
    index = tuple(slice(*each) for each in ends)
    expected = pattern.to_ours(theirs)[index]
    found = pattern.part(index)
    if found is None:
        assert "(" in text
        return
    slices, part_shape = found
    part = pattern.split(theirs)[slices].transpose(pattern.permutation).reshape(part_shape)
    np.testing.assert_array_equal(part, expected)


def test_splitting_copies_nothing() -> None:
    theirs = np.zeros((12, 6))
    assert np.shares_memory(ShapePattern("(N H) D -> D N H").bound((6, 3, 4)).split(theirs), theirs)


# ---- mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["A B", "A -> B", "A A -> A A", "A (B -> A B", "(A) b2 -> A b2", ""]
)
def test_what_is_no_permutation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Shape pattern"):
        ShapePattern(text)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 7), (4, 4, 8, 1)])
def test_a_shape_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        ShapePattern("(N R 2) D -> D N (2 R)").bound(shape)
