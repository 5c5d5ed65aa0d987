"""Score biases as rules on positions, so that no implementation needs an [S, T] tensor.

    attention(q, k, v, mask=CausalMask(), bias=AlibiBias.for_heads(32))

Axes: B batch (1 broadcasts), S query sequence, T key sequence, N heads.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class ScoreBias(Protocol):
    """A term added to the scaled (and capped) scores, computed from positions.

    It is a pytree of its arrays (`jax.tree_util.register_dataclass`) and carries no gradient: a learned
    bias is passed dense.
    """

    def dense(
        self, query_positions: Int[Array, "#B S"], key_positions: Int[Array, "#B T"]
    ) -> Float[Array, "#B N S T"]:
        """Returns the bias of these queries and keys, float32."""

    def of_heads(self, first: int | Int[Array, ""], num_heads: int) -> Self:
        """Returns the bias of `num_heads` heads from `first` on, which may be data: devices that split the heads ask."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AlibiBias:
    """Attention with linear biases, -slope * (query position - key position) (2108.12409).

    Attributes:
        slopes: one positive number a head.
    """

    slopes: Float[Array, " N"] | tuple[float, ...]

    @classmethod
    def for_heads(cls, num_heads: int) -> Self:
        """The paper's slopes: 2^(-8/n), 2^(-16/n), …; interleaved when n is no power of two."""
        largest = 1 << (num_heads.bit_length() - 1)
        slopes = [2.0 ** (-8.0 * (i + 1) / largest) for i in range(largest)]
        between = [2.0 ** (-4.0 * (i + 1) / largest) for i in range(0, 2 * largest, 2)]
        return cls(tuple(slopes + between[: num_heads - largest]))

    def of_heads(self, first: int | Int[Array, ""], num_heads: int) -> Self:
        slopes_N = jnp.asarray(self.slopes, jnp.float32)
        return type(self)(jax.lax.dynamic_slice_in_dim(slopes_N, first, num_heads))

    def dense(
        self, query_positions: Int[Array, "#B S"], key_positions: Int[Array, "#B T"]
    ) -> Float[Array, "#B N S T"]:
        distance_BST = query_positions[:, :, None] - key_positions[:, None, :]
        slopes_N = jax.lax.stop_gradient(jnp.asarray(self.slopes, jnp.float32))
        return -slopes_N[None, :, None, None] * distance_BST[:, None].astype(jnp.float32)
