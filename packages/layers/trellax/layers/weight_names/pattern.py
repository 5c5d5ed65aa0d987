"""`ShapePattern`: how one tensor's dims are arranged by two parties, and the way there and back.

    pattern = ShapePattern("(N H) D -> D N H").bound((64, 4, 16))  # our shape
    pattern.their_shape                                            # (64, 64)
    pattern.to_ours(pattern.to_theirs(x))                          # x, to the bit

Both sides name the same axes once each, so a pattern is a permutation of the elements and has an inverse by
construction. A dim is an axis, or several in parentheses, the slowest first. An axis is a letter or a number, which
is its size. A dim of ours may hold one letter besides numbers: its size follows from the shape.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

Dims = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class ShapePattern:
    """A pattern as it is written, without sizes.

    Attributes:
        text: "their dims -> our dims".
    """

    text: str

    def __post_init__(self) -> None:
        theirs, arrow, ours = self.text.partition("->")
        axes = [sorted(_flat(_parsed(side, self.text))) for side in (theirs, ours)]
        if not arrow or axes[0] != axes[1] or len(set(axes[0])) != len(axes[0]):
            raise ValueError(
                f"Shape pattern {self.text!r} must name the same axes on both sides of '->', each once."
            )

    @functools.cached_property
    def theirs(self) -> Dims:
        """Their dims, each a tuple of axes."""
        return _parsed(self.text.partition("->")[0], self.text)

    @functools.cached_property
    def ours(self) -> Dims:
        """Our dims, each a tuple of axes."""
        return _parsed(self.text.partition("->")[2], self.text)

    def bound(self, our_shape: Sequence[int]) -> BoundPattern:
        """Returns the pattern for arrays of ours of this shape.

        Raises:
            ValueError: if no array of this shape fits the pattern.
        """
        if len(our_shape) != len(self.ours):
            raise self._misfit(our_shape)
        sizes: dict[str, int] = {}
        for dim, size in zip(self.ours, our_shape):
            known = math.prod(int(axis) for axis in dim if axis.isdigit())
            letters = [axis for axis in dim if not axis.isdigit()]
            if len(letters) > 1 or size % known or (not letters and size != known):
                raise self._misfit(our_shape)
            sizes |= {axis: int(axis) for axis in dim if axis.isdigit()}
            sizes |= {axis: size // known for axis in letters}
        return BoundPattern(self, tuple(sizes.items()))

    def _misfit(self, our_shape: Sequence[int]) -> ValueError:
        return ValueError(f"Shape {tuple(our_shape)} does not fit the right side of {self.text!r}.")


@dataclasses.dataclass(frozen=True)
class BoundPattern:
    """A pattern with the size of each axis. Arrays may be of numpy or of JAX.

    Attributes:
        pattern: the pattern.
        sizes: (axis, size) of all axes.
    """

    pattern: ShapePattern
    sizes: tuple[tuple[str, int], ...]

    @functools.cached_property
    def their_shape(self) -> tuple[int, ...]:
        """Shape of their array."""
        return self._shape(self.pattern.theirs)

    @functools.cached_property
    def our_shape(self) -> tuple[int, ...]:
        """Shape of our array."""
        return self._shape(self.pattern.ours)

    @functools.cached_property
    def permutation(self) -> tuple[int, ...]:
        """Transposes their axes, one a dim, to ours."""
        theirs = _flat(self.pattern.theirs)
        return tuple(theirs.index(axis) for axis in _flat(self.pattern.ours))

    def to_ours(self, x: Any) -> Any:
        """Returns their array as ours."""
        return self.split(x).transpose(self.permutation).reshape(self.our_shape)

    def to_theirs(self, x: Any) -> Any:
        """Returns our array as theirs."""
        split = x.reshape(self._split_shape(self.pattern.ours))
        back = [self.permutation.index(i) for i in range(len(self.permutation))]
        return split.transpose(back).reshape(self.their_shape)

    def split(self, x: Any) -> Any:
        """Returns their array with one dim for each axis, in their order; of numpy it is a view."""
        return x.reshape(self._split_shape(self.pattern.theirs))

    def part(self, index: Sequence[slice]) -> tuple[tuple[slice, ...], tuple[int, ...]] | None:
        """Finds a block of our array in theirs.

        Args:
            index: slices of our dims, without steps.

        Returns:
            (slices of `split(x)`, shape of the block in ours), so that
            `split(x)[slices].transpose(permutation).reshape(shape)` is the block. None where a dim of several axes
            is cut.
        """
        cuts: dict[str, slice] = {}
        shape = []
        for dim, size, cut in zip(self.pattern.ours, self.our_shape, index, strict=True):
            start, stop, _ = cut.indices(size)
            if len(dim) > 1 and (start, stop) != (0, size):
                return None
            if len(dim) == 1:
                cuts[dim[0]] = slice(start, stop)
            shape.append(stop - start)
        slices = tuple(cuts.get(axis, slice(None)) for axis in _flat(self.pattern.theirs))
        return slices, tuple(shape)

    def _split_shape(self, dims: Dims) -> tuple[int, ...]:
        return self._shape(tuple((axis,) for axis in _flat(dims)))

    def _shape(self, dims: Dims) -> tuple[int, ...]:
        sizes = dict(self.sizes)
        return tuple(math.prod(sizes[axis] for axis in dim) for dim in dims)


_DIM = re.compile(r"\s*(?:\(([^()]+)\)|([^\s()]+))")
_AXIS = re.compile(r"[A-Za-z]|[1-9][0-9]*")


def _parsed(side: str, text: str) -> Dims:
    dims, rest = [], side.strip()
    while rest:
        found = _DIM.match(rest)
        axes = tuple((found[1] or found[2]).split()) if found else ()
        if not found or not all(_AXIS.fullmatch(axis) for axis in axes):
            raise ValueError(f"Shape pattern {text!r} cannot be read at {rest!r}.")
        dims.append(axes)
        rest = rest[found.end() :].strip()
    return tuple(dims)


def _flat(dims: Dims) -> tuple[str, ...]:
    return tuple(axis for dim in dims for axis in dim)
