"""Weights for inference: their values in a format, and the order in memory that a kernel wants.

    weight = prepare(weight_DF, format="int4", group_size=32)
    weight = prepare(embedding_VD, format="bfloat16", axes="VD")      # an embedding that is the head too
    unprepare(weight)                                                 # float32, in the order that was given
    stacked.at_layer(index)                                           # one layer of a stack, not sliced

A `PreparedWeight` is a pytree. Leading axes (layers of a stack) are axes of its arrays and of nothing else, so `jax.lax.scan`
slices it; `at_layer` names a layer of the whole stack instead, which spares a native kernel the copy that a slice is.

Axes: D inputs, F outputs (V where they are a vocabulary), L layers. Formats and layouts are described in `formats.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from trellax.kernels import placement
from trellax.kernels.matmul import formats
from trellax.kernels.matmul.formats import FormatName, Layout, Spec

Axes = Literal["DF", "VD"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PreparedWeight:
    """A weight as `prepare` makes it.

    Attributes:
        values: numbers or codes, with any leading axes.
        scales: float32 factor of each group of inputs and output; None where the format has none.
        layer: which layer of the leading axis is meant; None for all that is there.
        spec: format, layout and sizes.
        axes: the order that the weight was given in.
    """

    values: Shaped[Array, ...]
    scales: Float[Array, ...] | None
    layer: Int[Array, ""] | None
    spec: Spec = dataclasses.field(metadata={"static": True})
    axes: Axes = dataclasses.field(metadata={"static": True})

    @property
    def input_dim(self) -> int:
        return self.spec.input_dim

    @property
    def output_dim(self) -> int:
        return self.spec.output_dim

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading axes, inputs, outputs: [..., D, F], however the weight was given."""
        return (*self.leading_shape, self.input_dim, self.output_dim)

    @property
    def num_bytes(self) -> int:
        """Of its arrays, all layers together."""
        return sum(x.size * x.dtype.itemsize for x in (self.values, self.scales) if x is not None)

    @property
    def leading_shape(self) -> tuple[int, ...]:
        """Axes before the weight's own, such as layers."""
        return self.values.shape[: self.values.ndim - formats.rank_of_values(self.spec)]

    def at_layer(self, layer: int | Int[Array, ""]) -> Self:
        """Returns layer `layer` of a stack; nothing is copied."""
        if len(self.leading_shape) != 1 or self.layer is not None:
            raise ValueError(
                f"at_layer: expected a stack with one leading axis, got leading axes {self.leading_shape}"
                f"{'' if self.layer is None else ' and a layer chosen before'}."
            )
        return dataclasses.replace(self, layer=jnp.asarray(layer, jnp.int32))

    def sliced(self) -> Self:
        """Returns the chosen layer with arrays of its own, or itself where none is chosen."""
        if self.layer is None:
            return self
        take = lambda x: jax.lax.dynamic_index_in_dim(x, self.layer, keepdims=False)
        scales = None if self.scales is None else take(self.scales)
        return dataclasses.replace(self, values=take(self.values), scales=scales, layer=None)


def prepare(
    weight: Float[Array, "*layers D F"],
    *,
    format: FormatName,
    axes: Axes = "DF",
    group_size: int | None = None,
    layout: Layout | None = None,
) -> PreparedWeight:
    """Rounds or quantizes a weight and lays it out for the kernels of a platform. May be traced.

    Args:
        weight: [D, F], or [V, D] with `axes="VD"`; leading axes are layers.
        format: "float32"; "bfloat16", rounded to nearest; "int8" or "int4", symmetric, one float32 scale for each output and
            group of inputs; "int8_dynamic", which rounds the rows that are multiplied as well.
        axes: the order of the weight's last two axes.
        group_size: inputs that share a scale, which must divide D; None for the first of `formats.GROUP_SIZES` that does, or
            else for all. For int4 it is a multiple of 8, for int8_dynamic of 4.
        layout: "panels" for the native kernels of CPUs, "plain" for everything else; None for what suits the platform.

    Raises:
        ValueError: the format is unknown, or the group size does not fit.
    """
    if axes not in ("DF", "VD"):
        raise ValueError(f'prepare: axes must be "DF" or "VD", got {axes!r}.')
    if layout is None:
        layout = "panels" if placement.platform() == "cpu" else "plain"
    weight_DF = jnp.asarray(weight, jnp.float32)
    if axes == "VD":
        weight_DF = weight_DF.swapaxes(-1, -2)
    spec = formats.make_spec(format, layout, weight_DF.shape[-2:], group_size)
    values, scales = formats.encode(weight_DF, spec)
    return PreparedWeight(values, scales, None, spec, axes)


def unprepare(weight: PreparedWeight) -> Float[Array, "*layers D F"]:
    """Returns the weight's numbers, float32, in the order of axes in which it was given."""
    weight_DF = decoded(weight)
    return weight_DF.swapaxes(-1, -2) if weight.axes == "VD" else weight_DF


def decoded(weight: PreparedWeight) -> Float[Array, "*layers D F"]:
    """Returns the weight's numbers, float32, as [D, F] however it was given."""
    weight = weight.sliced()
    return formats.decode(weight.values, weight.scales, weight.spec)


def take_rows(weight: PreparedWeight, ids: Int[Array, ...]) -> Float[Array, "... D"]:
    """Returns the inputs' weights of some outputs, float32: what an embedding that is the head too looks up.

    Args:
        weight: a weight without leading axes.
        ids: which outputs (tokens).
    """
    if weight.leading_shape:
        raise ValueError(f"take_rows: the weight has leading axes {weight.leading_shape}.")
    return formats.decode_outputs(weight.values, weight.scales, weight.spec, ids)
