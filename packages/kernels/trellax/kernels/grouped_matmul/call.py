"""The record of one grouped matrix product, checked once.

Axes: M rows, K contracted, N columns, G groups.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class GroupedMatmulCall:
    """Arguments of `grouped_matmul`, validated."""

    lhs_MK: Float[Array, "M K"]
    rhs_GKN: Float[Array, "G K N"]
    group_sizes_G: Int[Array, " G"]
    has_even_groups: bool = False
    """Whether the sizes are known while tracing, equal, and add up to M."""


def make_call(lhs: Array, rhs: Array, group_sizes: Array | np.ndarray) -> GroupedMatmulCall:
    """Checks the arguments of `grouped_matmul` and gathers them."""
    fits = lhs.ndim == 2 and rhs.ndim == 3 and group_sizes.ndim == 1
    if not (fits and lhs.shape[1] == rhs.shape[1] and rhs.shape[0] == group_sizes.shape[0]):
        raise ValueError(
            "grouped_matmul: expected lhs [M, K], rhs [G, K, N], group_sizes [G]; got "
            f"{lhs.shape}, {rhs.shape}, {group_sizes.shape}."
        )
    if lhs.dtype != rhs.dtype:
        raise ValueError(f"grouped_matmul: dtypes differ: {lhs.dtype}, {rhs.dtype}. Cast one.")
    if not isinstance(group_sizes, np.ndarray):
        return GroupedMatmulCall(lhs, rhs, group_sizes)
    has_even_groups = bool(np.all(group_sizes * len(group_sizes) == lhs.shape[0]))
    return GroupedMatmulCall(lhs, rhs, jnp.asarray(group_sizes), has_even_groups)
