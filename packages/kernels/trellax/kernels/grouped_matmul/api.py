"""The grouped matrix product: its signature, and which implementation serves which call.

    out_MN = grouped_matmul(lhs_MK, rhs_GKN, group_sizes_G)

Axes: M rows, K contracted, N columns, G groups.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from trellax.kernels import dispatch, placement
from trellax.kernels.grouped_matmul import batched, blocked, dense, ragged_dot
from trellax.kernels.grouped_matmul.call import GroupedMatmulCall, make_call

BATCHED = dispatch.Implementation("batched", batched.run, batched.refusal)
RAGGED_DOT = dispatch.Implementation("ragged_dot", ragged_dot.run, dispatch.always)
BLOCKED = dispatch.Implementation("blocked", blocked.run, dispatch.always)
DENSE = dispatch.Implementation("dense", dense.run, dispatch.always)
IMPLEMENTATIONS = (BATCHED, RAGGED_DOT, BLOCKED, DENSE)


def grouped_matmul(
    lhs: Float[Array, "M K"],
    rhs: Float[Array, "G K N"],
    group_sizes: Int[Array | np.ndarray, " G"],
    *,
    implementation: dispatch.Requested = None,
) -> Float[Array, "M N"]:
    """Multiplies consecutive groups of rows with one matrix each (MegaBlocks, 2211.15841, section 3).

    Args:
        lhs: rows, sorted by group: the first `group_sizes[0]` belong to group 0, and so on.
        rhs: one matrix a group, in the dtype of `lhs`.
        group_sizes: rows of each group; zero is allowed, the sum is at most M. Equal sizes in a numpy array, which
            is known while tracing, allow for a plain batched product.
        implementation: None for the best that supports the call; a name of `IMPLEMENTATIONS` that must;
            or names, tried in order.

    Returns:
        Products in the dtype of `lhs`, summed in float32; rows past the last group are zeros.

    Raises:
        ValueError: shapes or dtypes do not fit, or a name is unknown.
        UnsupportedError: no requested implementation supports the call; it lists every reason.
    """
    if not isinstance(group_sizes, np.ndarray):
        group_sizes = jnp.asarray(group_sizes)
    call = make_call(jnp.asarray(lhs), jnp.asarray(rhs), group_sizes)
    return _choose(call, implementation).implementation.run(call)


def explain(
    lhs: Any, rhs: Any, group_sizes: Any, *, implementation: dispatch.Requested = None
) -> dispatch.Choice:
    """Tells which implementation `grouped_matmul` would take and why not the others."""
    return _choose(make_call(lhs, rhs, group_sizes), implementation)


def _choose(call: GroupedMatmulCall, implementation: dispatch.Requested) -> dispatch.Choice:
    """XLA:CPU expands ragged_dot to G dense products; `blocked` takes a third to a tenth of its CPU seconds."""
    on_cpu = placement.platform() == "cpu"
    uneven = (BLOCKED, RAGGED_DOT, DENSE) if on_cpu else (RAGGED_DOT, BLOCKED, DENSE)
    ordered = (BATCHED, *uneven)
    return dispatch.choose("grouped_matmul", ordered, requested=implementation, call=call)
