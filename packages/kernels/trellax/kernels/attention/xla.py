"""Reference attention: two einsums and a float32 softmax, for every platform and every option.

Axes: B batch, S query sequence, T key sequence, N heads, K kv heads, G query heads a kv head (N = K·G),
H head dim. Keys and values are never repeated: the query's heads are split into [K, G] instead.

A query without any key gets zeros.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from trellax.kernels.attention.call import AttentionCall

MASKED_SCORE = -1e30
"""Finite, so that a row without any key has finite probabilities, which are then dropped."""


def group_heads(q_BSNH: Array, num_kv_heads: int) -> Float[Array, "B S K G H"]:
    B, S, N, H = q_BSNH.shape
    return q_BSNH.reshape(B, S, num_kv_heads, N // num_kv_heads, H)


def group_scores(x_BNST: Array, num_kv_heads: int) -> Float[Array, "B K G S T"]:
    """Splits the heads of a bias or mask, which may have one head only."""
    B, N, S, T = x_BNST.shape
    heads = (1, 1) if N == 1 else (num_kv_heads, N // num_kv_heads)
    return x_BNST.reshape(B, *heads, S, T)


def cap(s_BKGST: Array, soft_cap: float | None) -> Array:
    """Bounds scores by ±soft_cap (Gemma 2, 2408.00118, section 2)."""
    return s_BKGST if soft_cap is None else soft_cap * jnp.tanh(s_BKGST / soft_cap)


def masked_scores(
    q_BSKGH: Array,
    k_BTKH: Array,
    *,
    scale: float,
    soft_cap: float | None,
    bias_BKGST: Array | None,
    mask_BKGST: Bool[Array, "#B #K #G S T"] | None,
) -> Float[Array, "B K G S T"]:
    """Scaled, capped, biased and masked scores, float32."""
    s_BKGST = jnp.einsum("BSKGH,BTKH->BKGST", q_BSKGH, k_BTKH, preferred_element_type=jnp.float32)
    s_BKGST = cap(scale * s_BKGST, soft_cap)
    if bias_BKGST is not None:
        s_BKGST += bias_BKGST.astype(jnp.float32)
    if mask_BKGST is not None:
        s_BKGST = jnp.where(mask_BKGST, s_BKGST, MASKED_SCORE)
    return s_BKGST


def zero_empty_rows(call: AttentionCall, o_BSNH: Array) -> Float[Array, "B S N H"]:
    """Zeros, value and gradient, for queries without any key, where the call can have such."""
    mask_BNST = call.dense_mask() if call.has_empty_rows() else None
    if mask_BNST is None:
        return o_BSNH
    return jnp.where(mask_BNST.any(axis=-1).transpose(0, 2, 1)[..., None], o_BSNH, 0)


def run(call: AttentionCall) -> Float[Array, "B S N H"]:
    K = call.k_BTKH.shape[2]
    mask_BNST, bias_BNST = call.dense_mask(), call.full_bias()
    s_BKGST = masked_scores(
        group_heads(call.q_BSNH, K),
        call.k_BTKH,
        scale=call.scale,
        soft_cap=call.soft_cap,
        bias_BKGST=None if bias_BNST is None else group_scores(bias_BNST, K),
        mask_BKGST=None if mask_BNST is None else group_scores(mask_BNST, K),
    )
    p_BKGST = jax.nn.softmax(s_BKGST, axis=-1).astype(call.v_BTKH.dtype)
    o_BSKGH = jnp.einsum("BKGST,BTKH->BSKGH", p_BKGST, call.v_BTKH)
    return zero_empty_rows(call, o_BSKGH.reshape(call.q_BSNH.shape))
