"""Reference product: the weight's numbers in the dtype of x, and one `dot` with float32 sums, for every platform and format.

Where a weight is quantized and plain, XLA fuses the decoding into the product on GPUs and TPUs.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels.matmul.call import MatmulCall
from trellax.kernels.matmul.formats import rounded_inputs
from trellax.kernels.matmul.prepared import PreparedWeight, decoded


def run(call: MatmulCall) -> Float[Array, "*rows F"]:
    x, weight = call.x, call.weight
    weight_DF = decoded(weight) if isinstance(weight, PreparedWeight) else weight
    if isinstance(weight, PreparedWeight) and weight.spec.rounds_inputs:
        x = rounded_inputs(x, weight.spec)
    out = jnp.matmul(x, weight_DF.astype(x.dtype), preferred_element_type=jnp.float32)
    return out.astype(call.output_dtype)
