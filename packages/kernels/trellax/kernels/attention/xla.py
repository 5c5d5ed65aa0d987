"""Reference attention: two einsums and a float32 softmax, for every platform and every option.

Axes: B batch, S query sequence, T key sequence, N heads, K kv heads, G query heads a kv head (N = K·G),
H head dim. Keys and values are never repeated: the query's heads are split into [K, G] instead.

A query without any key gets zeros.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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


def zero_empty_rows(call: AttentionCall, o_BSNH: Array) -> Float[Array, "B S N H"]:
    """Zeros, value and gradient, for queries without any key, where the call can have such."""
    mask_BNST = call.dense_mask() if call.has_empty_rows() else None
    if mask_BNST is None:
        return o_BSNH
    return jnp.where(mask_BNST.any(axis=-1).transpose(0, 2, 1)[..., None], o_BSNH, 0)


def run(call: AttentionCall) -> Float[Array, "B S N H"]:
    K = call.k_BTKH.shape[2]
    if call.q_BSNH.shape[2] == K:  # heads in one dimension: XLA:CPU is a fifth faster so
        q, heads, group = call.q_BSNH, "K", lambda x: x
    else:
        q, heads, group = group_heads(call.q_BSNH, K), "KG", lambda x: group_scores(x, K)
    scores = jnp.einsum(
        f"BS{heads}H,BTKH->B{heads}ST", q, call.k_BTKH, preferred_element_type=jnp.float32
    )
    scores = cap(call.scale * scores, call.soft_cap)
    mask_BNST, bias_BNST = call.dense_mask(), call.full_bias()
    if bias_BNST is not None:
        scores += group(bias_BNST.astype(jnp.float32))
    if mask_BNST is not None:
        scores = jnp.where(group(mask_BNST), scores, MASKED_SCORE)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(call.v_BTKH.dtype)
    out = jnp.einsum(f"B{heads}ST,BTKH->BS{heads}H", probabilities, call.v_BTKH)
    return zero_empty_rows(call, out.reshape(call.q_BSNH.shape))
