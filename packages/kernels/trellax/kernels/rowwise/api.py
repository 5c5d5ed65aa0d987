"""Operations on rows: their signatures, and which implementation serves which call.

Derivatives are those of the XLA implementation, which then computes the values, too: `native` serves passes that go forward only.

Axes: D numbers of a row.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from jaxtyping import Array, Float

from trellax.kernels import dispatch
from trellax.kernels.rowwise import native, xla
from trellax.kernels.rowwise.call import Op, make_call

NATIVE = dispatch.Implementation("native", native.run, native.refusal)
XLA = dispatch.Implementation("xla", xla.run, dispatch.always)
IMPLEMENTATIONS = (NATIVE, XLA)


def rms_norm(
    x: Float[Array, "*rows D"],
    scale: Float[Array, " D"],
    *,
    eps: float,
    implementation: dispatch.Requested = None,
) -> Float[Array, "*rows D"]:
    """Returns `x / sqrt(mean(x²) + eps) · scale` (1910.07467), computed in float32, in the dtype of x.

    Args:
        x: rows of any float dtype.
        scale: of each number of a row.
        eps: added to the mean square.
        implementation: None for the best that supports the call; a name of `IMPLEMENTATIONS` that must; or names, tried in order.

    Raises:
        ValueError: shapes do not fit, or a name is unknown.
        UnsupportedError: no requested implementation supports the call; it lists every reason.
    """
    return _run(x, scale, "rms_norm", eps, _requested(implementation))


def silu_product(
    gate: Float[Array, "*rows D"],
    up: Float[Array, "*rows D"],
    *,
    implementation: dispatch.Requested = None,
) -> Float[Array, "*rows D"]:
    """Returns `silu(gate) · up`, what a gated feed-forward layer computes (2002.05202), in the dtype of both.

    `native` computes silu in float32 and rounds it once; XLA rounds each step of it. Arguments and errors as of `rms_norm`.
    """
    return _run(gate, up, "silu_product", 0.0, _requested(implementation))


def explain(
    op: Op, x: Any, other: Any, *, implementation: dispatch.Requested = None
) -> dispatch.Choice:
    """Tells which implementation an op would take and why not the others; computes nothing."""
    call = make_call(op, x, other)
    return dispatch.choose(op, IMPLEMENTATIONS, requested=implementation, call=call)


def _requested(implementation: dispatch.Requested) -> dispatch.Requested:
    """Returns the same as a value that can be hashed."""
    if implementation is None or isinstance(implementation, str):
        return implementation
    return tuple(implementation)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _run(x: Array, other: Array, op: Op, eps: float, implementation: dispatch.Requested) -> Array:
    call = make_call(op, x, other, eps=eps)
    choice = dispatch.choose(op, IMPLEMENTATIONS, requested=implementation, call=call)
    return choice.implementation.run(call)


@_run.defjvp
def _derivative(
    op: Op, eps: float, implementation: dispatch.Requested, primals: Any, tangents: Any
) -> tuple[Array, Array]:
    compute = lambda x, other: xla.run(make_call(op, x, other, eps=eps))
    return jax.jvp(compute, primals, tangents)
