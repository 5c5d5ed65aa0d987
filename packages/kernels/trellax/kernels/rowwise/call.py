"""The record of one operation on rows, checked once.

Axes: D numbers of a row.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxtyping import Array, Float

Op = Literal["rms_norm", "silu_product"]


@dataclasses.dataclass(frozen=True)
class RowwiseCall:
    """Arguments of an operation.

    Attributes:
        op: which.
        x: rows; the gate of `silu_product`.
        other: the scale of `rms_norm`, [D]; what the gate multiplies in `silu_product`.
        eps: of `rms_norm`.
    """

    op: Op
    x: Float[Array, "*rows D"]
    other: Float[Array, "*rows_or_none D"]
    eps: float = 0.0


def make_call(op: Op, x: Array, other: Array, *, eps: float = 0.0) -> RowwiseCall:
    """Checks the arguments and gathers them."""
    expected = x.shape[-1:] if op == "rms_norm" else x.shape
    if x.ndim < 1 or other.shape != expected:
        raise ValueError(
            f"{op}: of rows {x.shape}, expected the other of {expected}; got {other.shape}."
        )
    return RowwiseCall(op, x, other, eps)
