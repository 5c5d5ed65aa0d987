"""Grouped matrix product of equal groups: one batched product, on any platform.

Axes: M rows, K contracted, N columns, G groups.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels.grouped_matmul.call import GroupedMatmulCall


def refusal(call: GroupedMatmulCall) -> str | None:
    if call.has_even_groups:
        return None
    return "the groups are not known, while tracing, to be equal and to hold all rows"


def run(call: GroupedMatmulCall) -> Float[Array, "M N"]:
    M, G = call.lhs_MK.shape[0], call.rhs_GKN.shape[0]
    rows_GMK = call.lhs_MK.reshape(G, M // G, -1)
    out_GMN = jnp.einsum("GMK,GKN->GMN", rows_GMK, call.rhs_GKN, preferred_element_type=jnp.float32)
    return out_GMN.reshape(M, -1).astype(call.lhs_MK.dtype)
