"""Paged attention on CPUs in C++ (`paged_attention.cc`): each key and value is read once for all query heads that share it.

A query's result is the same, bit for bit, whatever rows and queries are beside it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from trellax.kernels.attention import AlibiBias
from trellax.kernels.native import Library, cpu_refusal
from trellax.kernels.paged_attention.call import PagedAttentionCall

LIBRARY = Library(
    "trellax.kernels.paged_attention",
    source="paged_attention.cc",
    handlers=("trellax_paged_attention",),
)
QUERY_DTYPES = ("float32", "bfloat16")
PAGE_DTYPES = ("float32", "bfloat16", "int8")


def refusal(call: PagedAttentionCall) -> str | None:
    if call.q_BSNH.dtype not in QUERY_DTYPES or call.key_pages.dtype not in PAGE_DTYPES:
        return (
            f"knows queries of {QUERY_DTYPES} and pages of {PAGE_DTYPES}, and these are {call.q_BSNH.dtype} and "
            f"{call.key_pages.dtype}"
        )
    if not call.mask.is_exact:
        return f"does not know the mask {call.mask}"
    if call.bias is not None and type(call.bias) is not AlibiBias:
        return f"does not know the bias {type(call.bias).__name__}"
    if call.q_BSNH.size == 0 or call.key_pages.size == 0 or call.block_table_BP.size == 0:
        return "there is nothing to attend to"
    return cpu_refusal() or LIBRARY.refusal()


def run(call: PagedAttentionCall) -> Float[Array, "B S N H"]:
    none = jnp.zeros((0,), jnp.float32)
    out = jax.ShapeDtypeStruct(call.q_BSNH.shape, call.q_BSNH.dtype)
    target = LIBRARY.target("trellax_paged_attention")
    attend = jax.ffi.ffi_call(target, out, vmap_method="sequential")
    return attend(
        call.q_BSNH,
        call.key_pages,
        call.value_pages,
        call.block_table_BP,
        call.q_pos_BS,
        call.lengths_B,
        none if call.key_scales is None else call.key_scales,
        none if call.value_scales is None else call.value_scales,
        none if call.bias is None else jnp.asarray(call.bias.slopes, jnp.float32),  # type: ignore[attr-defined]
        scale=np.float32(call.scale),
        soft_cap=np.float32(call.soft_cap or 0.0),
        is_causal=np.int64(call.mask.is_causal),
        window=np.int64(call.mask.window or 0),
    )
