"""Reference paged attention: gather every row's pages, two einsums and a float32 softmax, for every platform and option.

Its cost follows the width of the block table. `scores` and `gather` serve the chunked implementation as well.

Axes: B rows, S queries a row, T keys, C pages of a chunk, N heads, K kv heads, G query heads a kv head, H head dim.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from trellax.kernels.paged_attention.call import PagedAttentionCall

MASKED_SCORE = -1e30
"""Finite, so that a query without any key has finite probabilities, which are then dropped."""


def run(call: PagedAttentionCall) -> Float[Array, "B S N H"]:
    T = call.block_table_BP.shape[1] * call.page_size
    k_pos_1T = jnp.arange(T, dtype=jnp.int32)[None]
    scores_BKGST, visible_BST = scores(call, call.block_table_BP, k_pos_1T)
    p_BKGST = jax.nn.softmax(scores_BKGST, axis=-1)
    p_BKGST = jnp.where(visible_BST[:, None, None], p_BKGST, 0)
    o_BSKGH = weighted_values(call, p_BKGST, call.block_table_BP, k_pos_1T)
    return o_BSKGH.astype(call.q_BSNH.dtype).reshape(call.q_BSNH.shape)


def scores(
    call: PagedAttentionCall, ids_BC: Int[Array, "B C"], k_pos_1T: Int[Array, "1 T"]
) -> tuple[Float[Array, "B K G S T"], Bool[Array, "B S T"]]:
    """Float32 scores of all queries on the keys in these pages, masked, and which keys are visible."""
    B, S, N, H = call.q_BSNH.shape
    K = call.num_kv_heads
    q_BSKGH = call.q_BSNH.reshape(B, S, K, N // K, H).astype(call.compute_dtype)
    k_BTKH = gather(call.key_pages, ids_BC).astype(call.compute_dtype)
    s = jnp.einsum("BSKGH,BTKH->BKGST", q_BSKGH, k_BTKH, preferred_element_type=jnp.float32)
    if call.key_scales is not None:
        s *= _of_keys(gather(call.key_scales, ids_BC))
    s *= call.scale
    if call.soft_cap is not None:
        s = call.soft_cap * jnp.tanh(s / call.soft_cap)
    if call.bias is not None:
        bias_BNST = call.bias.dense(call.q_pos_BS, k_pos_1T)
        s += bias_BNST.reshape(bias_BNST.shape[0], K, N // K, S, k_pos_1T.shape[1])
    visible_BST = call.visible(k_pos_1T)
    return jnp.where(visible_BST[:, None, None], s, MASKED_SCORE), visible_BST


def weighted_values(
    call: PagedAttentionCall,
    p_BKGST: Float[Array, "B K G S T"],
    ids_BC: Int[Array, "B C"],
    k_pos_1T: Int[Array, "1 T"],
) -> Float[Array, "B S K G H"]:
    """Sums the values in these pages with weights that are zero for what a query may not read, in float32.

    What was never written for a row may be anything, not a number included: it is replaced by zeros.
    """
    written_BT11 = call.written(k_pos_1T)[..., None, None]
    v_BTKH = gather(call.value_pages, ids_BC).astype(call.compute_dtype)
    v_BTKH = jnp.where(written_BT11, v_BTKH, 0)
    if call.value_scales is not None:
        scales_BTK = jnp.where(written_BT11[..., 0], gather(call.value_scales, ids_BC), 0)
        p_BKGST = p_BKGST * _of_keys(scales_BTK)
    p_BKGST = p_BKGST.astype(call.compute_dtype)
    return jnp.einsum("BKGST,BTKH->BSKGH", p_BKGST, v_BTKH, preferred_element_type=jnp.float32)


def gather(
    pages: Shaped[Array, "num_pages page_size *rest"], ids_BC: Int[Array, "B C"]
) -> Shaped[Array, "B T *rest"]:
    """The rows' pages, one after the other (T = C·page_size)."""
    rows = jnp.take(pages, ids_BC, axis=0, mode="clip")
    return rows.reshape(rows.shape[0], -1, *rows.shape[3:])


def _of_keys(x_BTK: Float[Array, "B T K"]) -> Float[Array, "B K 1 1 T"]:
    return x_BTK.transpose(0, 2, 1)[:, :, None, None, :]
