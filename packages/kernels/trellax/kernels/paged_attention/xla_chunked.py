"""Paged attention a chunk of pages at a time, with an online softmax, in plain XLA.

The loop runs from the first chunk that a window leaves visible to the last that holds a written key of any row, so cost
follows the longest row and not the block table, and no row's keys are ever gathered whole. A chunk that a row cannot see
leaves the row's sums as they are, bit for bit: a row's result does not depend on the others.

Axes: B rows, S queries a row, T keys of a chunk, C pages of a chunk, P pages a row, K kv heads, G query heads a kv head, H head dim.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.kernels import placement
from trellax.kernels.paged_attention.call import PagedAttentionCall
from trellax.kernels.paged_attention.xla import MASKED_SCORE, scores, weighted_values

KEYS_PER_CHUNK = 256

Softmax = tuple[Float[Array, "B K G S"], Float[Array, "B K G S"], Float[Array, "B S K G H"]]
"""Running maximum, sum of exponentials, and weighted values."""


def run(call: PagedAttentionCall) -> Float[Array, "B S N H"]:
    pages = max(1, min(KEYS_PER_CHUNK // call.page_size, call.block_table_BP.shape[1]))
    table_BP = _pad_to_multiple(call.block_table_BP, pages)

    def add_chunk(chunk: Array, softmax: Softmax) -> Softmax:
        ids_BC = jax.lax.dynamic_slice_in_dim(table_BP, chunk * pages, pages, axis=1)
        first, size = chunk * pages * call.page_size, pages * call.page_size
        k_pos_1T = first + jnp.arange(size, dtype=jnp.int32)[None]
        return _add(call, softmax, ids_BC, k_pos_1T)

    first, end = _chunk_range(call, pages * call.page_size, table_BP.shape[1] // pages)
    _, sums_BKGS, o_BSKGH = jax.lax.fori_loop(first, end, add_chunk, _empty(call))
    o_BSKGH = o_BSKGH / jnp.maximum(_as_output(sums_BKGS), 1e-30)
    return o_BSKGH.astype(call.q_BSNH.dtype).reshape(call.q_BSNH.shape)


def _add(
    call: PagedAttentionCall,
    softmax: Softmax,
    ids_BC: Int[Array, "B C"],
    k_pos_1T: Int[Array, "1 T"],
) -> Softmax:
    max_BKGS, sums_BKGS, o_BSKGH = softmax
    s_BKGST, visible_BST = scores(call, ids_BC, k_pos_1T)
    new_max_BKGS = jnp.maximum(max_BKGS, s_BKGST.max(axis=-1))
    p_BKGST = jnp.exp(s_BKGST - new_max_BKGS[..., None])
    p_BKGST = jnp.where(visible_BST[:, None, None], p_BKGST, 0)
    shrink_BKGS = jnp.exp(max_BKGS - new_max_BKGS)
    o_BSKGH = o_BSKGH * _as_output(shrink_BKGS)
    o_BSKGH += weighted_values(call, p_BKGST, ids_BC, k_pos_1T)
    return new_max_BKGS, sums_BKGS * shrink_BKGS + p_BKGST.sum(axis=-1), o_BSKGH


def _empty(call: PagedAttentionCall) -> Softmax:
    """The softmax over no key, varying over the `shard_map` axes that any input varies over."""
    B, S, N, H = call.q_BSNH.shape
    K = call.num_kv_heads
    heads = (B, K, N // K, S)
    start = (
        jnp.full(heads, MASKED_SCORE, jnp.float32),
        jnp.zeros(heads, jnp.float32),
        jnp.zeros((B, S, K, N // K, H), jnp.float32),
    )
    fields = (call.q_BSNH, call.key_pages, call.value_pages, call.key_scales, call.value_scales)
    rows = (call.block_table_BP, call.q_pos_BS, call.lengths_B, call.bias)
    inputs = [jnp.asarray(x) for x in jax.tree.leaves((fields, rows))]
    return jax.tree.map(lambda x: placement.like_varying(x, *inputs), start)


def _chunk_range(call: PagedAttentionCall, size: int, num_chunks: int) -> tuple[Array, Array]:
    """The chunks, first and past the last, that hold a key which some query may read."""
    is_query_BS = call.q_pos_BS >= 0
    end_B = call.lengths_B
    if call.mask.is_causal:
        end_B = jnp.minimum(end_B, call.q_pos_BS.max(axis=1, initial=-1) + 1)
    end = jnp.minimum((end_B.max(initial=0) + size - 1) // size, num_chunks)
    if call.mask.window is None:
        return jnp.zeros_like(end), end
    never = jnp.iinfo(jnp.int32).max
    oldest = jnp.where(is_query_BS, call.q_pos_BS - call.mask.window + 1, never).min(initial=never)
    return jnp.clip(oldest // size, 0, end), end


def _pad_to_multiple(table_BP: Int[Array, "B P"], size: int) -> Int[Array, "B P"]:
    return jnp.pad(table_BP, ((0, 0), (0, -table_BP.shape[1] % size)))


def _as_output(x_BKGS: Float[Array, "B K G S"]) -> Float[Array, "B S K G 1"]:
    return x_BKGS.transpose(0, 3, 1, 2)[..., None]
