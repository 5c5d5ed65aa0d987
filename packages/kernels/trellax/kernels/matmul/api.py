"""The product with a prepared weight: its signature, and which implementation serves which call.

    out = matmul(x, prepare(weight_DF, format="bfloat16"))
    print(explain(x, weight))

Axes: D inputs, F outputs.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels import dispatch
from trellax.kernels.matmul import native, xla
from trellax.kernels.matmul.call import MatmulCall, make_call
from trellax.kernels.matmul.prepared import PreparedWeight

NATIVE = dispatch.Implementation("native", native.run, native.refusal)
XLA = dispatch.Implementation("xla", xla.run, dispatch.always)
IMPLEMENTATIONS = (NATIVE, XLA)


def matmul(
    x: Float[Array, "*rows D"],
    weight: Float[Array, "D F"] | PreparedWeight,
    *,
    output_dtype: jnp.dtype | None = None,
    implementation: dispatch.Requested = None,
) -> Float[Array, "*rows F"]:
    """Multiplies rows with a weight, summing in float32. For inference: `native` has no derivative.

    Args:
        x: rows; float32, bfloat16 or float16.
        weight: an array, or what `prepare` made of one.
        output_dtype: None for that of x; float32 for logits.
        implementation: None for the best that supports the call; a name of `IMPLEMENTATIONS` that must;
            or names, tried in order.

    Raises:
        ValueError: shapes or dtypes do not fit, or a name is unknown.
        UnsupportedError: no requested implementation supports the call; it lists every reason.
    """
    call = make_call(x, weight, output_dtype=output_dtype)
    return _choose(call, implementation).implementation.run(call)


def explain(
    x: Any, weight: Any, *, implementation: dispatch.Requested = None, **options: Any
) -> dispatch.Choice:
    """Tells which implementation `matmul` would take and why not the others; computes nothing."""
    return _choose(make_call(x, weight, **options), implementation)


def _choose(call: MatmulCall, implementation: dispatch.Requested) -> dispatch.Choice:
    return dispatch.choose("matmul", IMPLEMENTATIONS, requested=implementation, call=call)
