"""Grouped matrix product a block of rows at a time: each block meets one group's matrix only.

Groups are laid out so that each starts a new block; at most one block a group is partly empty, so the
arithmetic is that of M + G·BLOCK_ROWS rows instead of G·M (MegaBlocks, 2211.15841, section 5). The blocks are
scanned, so no group's matrix is copied more than once a block.

Axes: M rows, K contracted, N columns, G groups, J blocks, R rows of a block.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.kernels.grouped_matmul.call import GroupedMatmulCall

BLOCK_ROWS = 64
"""Rows of a block: enough that a product outweighs reading its matrix."""


def run(call: GroupedMatmulCall) -> Float[Array, "M N"]:
    row_JR, group_J = _layout(call)
    lhs_JRK = call.lhs_MK.at[row_JR].get(mode="fill", fill_value=0)

    def step(_: None, block: tuple[Array, Array]) -> tuple[None, Array]:
        lhs_RK, group = block
        return None, jnp.matmul(
            lhs_RK, call.rhs_GKN[group], preferred_element_type=jnp.float32
        ).astype(lhs_RK.dtype)

    _, out_JRN = jax.lax.scan(step, None, (lhs_JRK, group_J))
    out_MN = jnp.zeros((call.lhs_MK.shape[0], call.rhs_GKN.shape[2]), call.lhs_MK.dtype)
    return out_MN.at[row_JR].set(out_JRN, mode="drop", unique_indices=False)


def _layout(call: GroupedMatmulCall) -> tuple[Int[Array, "J R"], Int[Array, " J"]]:
    """The row of `lhs` in each place of each block, M where the place is empty, and each block's group."""
    M, G = call.lhs_MK.shape[0], call.rhs_GKN.shape[0]
    sizes_G = call.group_sizes_G.astype(jnp.int32)
    num_blocks_G = -(-sizes_G // BLOCK_ROWS)
    ends_G = jnp.cumsum(num_blocks_G)
    block_J = jnp.arange(-(-M // BLOCK_ROWS) + G, dtype=jnp.int32)
    group_J = jnp.minimum(jnp.searchsorted(ends_G, block_J, side="right"), G - 1)
    in_group_J = block_J - (ends_G - num_blocks_G)[group_J]
    place_JR = in_group_J[:, None] * BLOCK_ROWS + jnp.arange(BLOCK_ROWS)
    is_row_JR = place_JR < sizes_G[group_J][:, None]
    first_G = jnp.cumsum(sizes_G) - sizes_G
    return jnp.where(is_row_JR, first_G[group_J][:, None] + place_JR, M), group_J
