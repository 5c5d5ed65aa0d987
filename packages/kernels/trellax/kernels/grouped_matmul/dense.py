"""Reference grouped matrix product: every row by every group's matrix, then the row's own is kept.

G times the arithmetic of the others; for small sizes and as the truth in tests.

Axes: M rows, K contracted, N columns, G groups.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels.grouped_matmul.call import GroupedMatmulCall


def run(call: GroupedMatmulCall) -> Float[Array, "M N"]:
    M, G = call.lhs_MK.shape[0], call.rhs_GKN.shape[0]
    ends_G = jnp.cumsum(call.group_sizes_G)
    group_M = jnp.searchsorted(ends_G, jnp.arange(M), side="right")
    own_MG = jax.nn.one_hot(group_M, G, dtype=call.lhs_MK.dtype)
    own_MGK = own_MG[:, :, None] * call.lhs_MK[:, None, :]
    out_MN = jnp.einsum("MGK,GKN->MN", own_MGK, call.rhs_GKN, preferred_element_type=jnp.float32)
    return out_MN.astype(call.lhs_MK.dtype)
