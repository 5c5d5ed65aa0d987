"""The record of one product, checked once.

Axes: M rows (all leading axes of x), D inputs, F outputs.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels.matmul.prepared import PreparedWeight

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class MatmulCall:
    """Arguments of `matmul`, validated."""

    x: Float[Array, "*rows D"]
    weight: Float[Array, "D F"] | PreparedWeight
    output_dtype: jnp.dtype


def make_call(
    x: Array, weight: Array | PreparedWeight, *, output_dtype: jnp.dtype | None = None
) -> MatmulCall:
    """Checks the arguments of `matmul` and gathers them."""
    shape: tuple[int, ...] = weight.shape
    if isinstance(weight, PreparedWeight) and weight.layer is not None:
        shape = shape[1:]
    if x.ndim < 1 or len(shape) != 2 or x.shape[-1] != shape[0]:
        raise ValueError(
            f"matmul: expected x [..., D] and a weight [D, F]; got {x.shape} and {shape}. Choose a layer of a stack with "
            "at_layer."
        )
    if x.dtype not in DTYPES:
        raise ValueError(f"matmul: x is {x.dtype}; expected one of {DTYPES}.")
    return MatmulCall(x, weight, jnp.dtype(x.dtype if output_dtype is None else output_dtype))
