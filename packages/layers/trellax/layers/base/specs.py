"""What a parameter is: shape, dtype, how it starts, and the logical names of its axes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from trellax.layers.base.initializers import Initializer


@dataclasses.dataclass(frozen=True)
class ParameterSpec:
    """Description of one parameter array.

    Attributes:
        shape: sizes of the dims.
        dtype: name of the array type, such as "float32".
        initializer: makes the first value.
        logical_axes: one logical axis name a dim (None: never sharded).
        fan_in: dims that are contracted with the input; their product is the fan-in.
        fan_out: dims that are produced.
        trainable: whether the learner updates it.
    """

    shape: tuple[int, ...]
    dtype: str
    initializer: Initializer
    logical_axes: tuple[str | None, ...]
    fan_in: tuple[int, ...] = ()
    fan_out: tuple[int, ...] = ()
    trainable: bool = True

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.logical_axes), (self.shape, self.logical_axes)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def init(self, key: jax.Array) -> jax.Array:
        """Returns a first value."""
        return self.initializer.sample(
            key, self.shape, self.dtype, fan_in=self.fan_in, fan_out=self.fan_out
        )

    def stacked(self, num: int, axis: str = "layers") -> ParameterSpec:
        """Returns the spec of `num` such parameters stacked on a new leading axis."""
        return dataclasses.replace(
            self,
            shape=(num, *self.shape),
            logical_axes=(axis, *self.logical_axes),
            fan_in=tuple(d + 1 for d in self.fan_in),
            fan_out=tuple(d + 1 for d in self.fan_out),
        )


def is_spec(value: Any) -> bool:
    """Whether `value` is a `ParameterSpec`: the `is_leaf` of trees of specs."""
    return isinstance(value, ParameterSpec)


def count_parameters(specs: Any) -> int:
    """Returns the number of elements of a tree of specs."""
    return sum(s.size for s in jax.tree.leaves(specs, is_leaf=is_spec))
