"""Grouped matrix product by `jax.lax.ragged_dot`, which compilers may lower to a grouped kernel.

Axes: M rows, K contracted, N columns, G groups.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels.grouped_matmul.call import GroupedMatmulCall


def run(call: GroupedMatmulCall) -> Float[Array, "M N"]:
    out_MN = jax.lax.ragged_dot(
        call.lhs_MK,
        call.rhs_GKN,
        call.group_sizes_G.astype(jnp.int32),
        preferred_element_type=jnp.float32,
    )
    return out_MN.astype(call.lhs_MK.dtype)
