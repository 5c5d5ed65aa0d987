"""Reference implementations, for every platform and dtype.

Axes: D numbers of a row.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels.rowwise.call import RowwiseCall


def run(call: RowwiseCall) -> Float[Array, "*rows D"]:
    if call.op == "silu_product":
        return jax.nn.silu(call.x) * call.other
    x32 = call.x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    y32 = x32 * jax.lax.rsqrt(mean_square + call.eps)
    return (y32 * call.other.astype(jnp.float32)).astype(call.x.dtype)
