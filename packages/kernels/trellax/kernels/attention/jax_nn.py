"""Attention by `jax.nn.dot_product_attention` on XLA: for comparison with programs written on it.

Axes: B batch, S query sequence, T key sequence, N heads, H head dim.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels.attention.call import AttentionCall
from trellax.kernels.attention.xla import zero_empty_rows


def refusal(call: AttentionCall) -> str | None:
    if call.soft_cap is not None:
        return "jax.nn.dot_product_attention has no soft cap"
    return None


def run(call: AttentionCall) -> Float[Array, "B S N H"]:
    return dot_product_attention(call, "xla")


def dot_product_attention(
    call: AttentionCall, backend: Literal["xla", "cudnn"]
) -> Float[Array, "B S N H"]:
    """Calls JAX's function with the mask in the cheapest form that says it."""
    bias_BNST = call.full_bias()
    o_BSNH = jax.nn.dot_product_attention(
        call.q_BSNH,
        call.k_BTKH,
        call.v_BTKH,
        bias=None if bias_BNST is None else bias_BNST.astype(call.q_BSNH.dtype),
        scale=call.scale,
        implementation=backend,
        **mask_options(call),
    )
    return zero_empty_rows(call, o_BSNH)


def mask_options(call: AttentionCall) -> dict[str, Any]:
    """JAX's options for the mask: flags if positions are implicit and segments absent, else dense."""
    if not call.is_static_mask():
        mask_BNST = call.dense_mask()
        lengths = (call.q_BSNH.shape[0], 1, call.q_BSNH.shape[1], call.k_BTKH.shape[1])
        return {} if mask_BNST is None else {"mask": jnp.broadcast_to(mask_BNST, lengths)}
    if call.mask.window is None:
        return {"is_causal": call.mask.is_causal}
    left = call.mask.window - 1
    right = 0 if call.mask.is_causal else left
    return {"local_window_size": (left, right), "is_causal": call.mask.is_causal}
