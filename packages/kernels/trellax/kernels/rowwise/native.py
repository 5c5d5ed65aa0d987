"""Operations on rows on CPUs in C++ (`rowwise.cc`): one pass over the data on all threads.

A row's result is the same, bit for bit, whatever rows are beside it.
"""

from __future__ import annotations

import math

import jax
import numpy as np
from jaxtyping import Array, Float

from trellax.kernels.native import Library, cpu_refusal
from trellax.kernels.rowwise.call import RowwiseCall

LIBRARY = Library(
    "trellax.kernels.rowwise",
    source="rowwise.cc",
    handlers=("trellax_rms_norm", "trellax_silu_product"),
)
DTYPES = ("float32", "bfloat16")


def refusal(call: RowwiseCall) -> str | None:
    if call.x.dtype not in DTYPES or call.other.dtype not in DTYPES:
        return f"knows {DTYPES}, and these are {call.x.dtype} and {call.other.dtype}"
    if call.op == "silu_product" and call.x.dtype != call.other.dtype:
        return (
            f"multiplies what is of one dtype, and these are {call.x.dtype} and {call.other.dtype}"
        )
    if call.x.size == 0:
        return "there is nothing to compute"
    return cpu_refusal() or LIBRARY.refusal()


def run(call: RowwiseCall) -> Float[Array, "*rows D"]:
    *rows, D = call.x.shape
    x_MD = call.x.reshape(math.prod(rows), D)
    out = jax.ShapeDtypeStruct(x_MD.shape, call.x.dtype)
    compute = jax.ffi.ffi_call(LIBRARY.target(f"trellax_{call.op}"), out, vmap_method="sequential")
    if call.op == "rms_norm":
        out_MD: Array = compute(x_MD, call.other, eps=np.float32(call.eps))
    else:
        out_MD = compute(x_MD, call.other.reshape(x_MD.shape))
    return out_MD.reshape(call.x.shape)
