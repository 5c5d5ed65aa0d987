"""Attention by cuDNN's fused kernels, through `jax.nn.dot_product_attention`.

Causal and window masks on implicit positions are flags of the kernel; segments and explicit positions
reach it as a dense mask, which still avoids S·T scores a head. Axes as in `api.py`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels import placement
from trellax.kernels.attention import jax_nn
from trellax.kernels.attention.call import AttentionCall

MAX_HEAD_DIM = 128


def refusal(call: AttentionCall) -> str | None:
    if placement.platform() != "gpu":
        return f"needs an NVIDIA GPU, and this is traced for {placement.platform()}"
    return unsupported(call)


def unsupported(call: AttentionCall) -> str | None:
    """The reason why not even a GPU could serve the call, or None."""
    (S, H), T, dtype = call.q_BSNH.shape[1::2], call.k_BTKH.shape[1], call.q_BSNH.dtype
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"takes bfloat16 and float16, not {dtype}"
    if H > MAX_HEAD_DIM or H % 8:
        return f"head dim must be a multiple of 8 up to {MAX_HEAD_DIM}, not {H}"
    if call.soft_cap is not None:
        return "has no soft cap"
    is_dense = call.bias is not None or not call.is_static_mask()
    if is_dense and (S % 2 or T % 2):
        return f"with a bias or dense mask, lengths must be even, not {S} and {T}"
    return None


def run(call: AttentionCall) -> Float[Array, "B S N H"]:
    return jax_nn.dot_product_attention(call, "cudnn")
