"""Products on CPUs in C++ (`matmul.cc`): a weight in panels is read once, as fast as memory gives it, for up to twelve rows.

A row's result is the same, bit for bit, whatever rows are beside it. Forward only.

Axes: M rows, D inputs, F outputs.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from trellax.kernels.matmul.call import MatmulCall
from trellax.kernels.matmul.formats import FORMATS
from trellax.kernels.matmul.prepared import PreparedWeight
from trellax.kernels.native import Library, cpu_refusal

LIBRARY = Library("trellax.kernels.matmul", source="matmul.cc", handlers=("trellax_matmul",))
DTYPES = ("float32", "bfloat16")


def refusal(call: MatmulCall) -> str | None:
    weight = call.weight
    if not isinstance(weight, PreparedWeight) or weight.spec.layout != "panels":
        return 'needs a weight from prepare(..., layout="panels")'
    if call.x.dtype not in DTYPES or call.output_dtype not in DTYPES:
        return f"knows {DTYPES}, and this is {call.x.dtype} to {call.output_dtype}"
    if weight.output_dim == 0 or weight.input_dim == 0 or call.x.size == 0:
        return "there is nothing to multiply"
    return cpu_refusal() or LIBRARY.refusal()


def run(call: MatmulCall) -> Float[Array, "*rows F"]:
    weight = call.weight
    assert isinstance(weight, PreparedWeight)
    *rows, D = call.x.shape
    x_MD = call.x.reshape(math.prod(rows), D)
    out = jax.ShapeDtypeStruct((x_MD.shape[0], weight.output_dim), call.output_dtype)
    values, scales = weight.values, weight.scales
    if weight.layer is None:  # a stack of one
        values, scales = values[None], None if scales is None else scales[None]
    multiply = jax.ffi.ffi_call(LIBRARY.target("trellax_matmul"), out, vmap_method="sequential")
    out_MF: Array = multiply(
        x_MD,
        values,
        jnp.zeros((values.shape[0], 0), jnp.float32) if scales is None else scales,
        jnp.zeros((), jnp.int32) if weight.layer is None else weight.layer,
        format=np.int64(FORMATS.index(weight.spec.format)),
        group_size=np.int64(weight.spec.group_size),
    )
    return out_MF.reshape(*rows, weight.output_dim)
