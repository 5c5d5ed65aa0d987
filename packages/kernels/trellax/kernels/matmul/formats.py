"""How a weight's numbers are written: five formats in two layouts.

| format   | plain                                       | panels of 16 outputs (P = F/16, rounded up; padded with zeros)   |
|----------|---------------------------------------------|------------------------------------------------------------------|
| float32  | [D, F]                                      | [P, D, 16]                                                       |
| bfloat16 | [D, F]                                      | [P, D/2, 16, 2], pairs of inputs; an odd D is padded             |
| int8     | [D, F]                                      | [P, D, 16]                                                       |
| int4     | uint8 [D/2, F], even inputs in the low half | uint32 [P, D/8, 16], even inputs in the low half of each word    |
| scales   | [D/group, F]                                | [P, D/group, 16]                                                 |

"int8_dynamic" has int8's numbers, and says that each row is rounded to int8 as well, group by group, when it is multiplied: products
and sums of a group are integers, which CPUs compute at twice the speed of bfloat16. Its panels are uint8 [P, D/4, 16, 4], with 128
added to each number.

A code c of int4 stands for c - 8. Scales are chosen so that the number farthest from zero is exact: it is ±127 in int8 and -8 in
int4, as in GGUF's Q8_0 and Q4_0, whose numbers survive unchanged at their group size of 32.

Axes: D inputs, F outputs, P panels, W lanes of a panel (16). All functions take any leading axes.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

FormatName = Literal["float32", "bfloat16", "int8", "int4", "int8_dynamic"]
Layout = Literal["plain", "panels"]
FORMATS = ("float32", "bfloat16", "int8", "int4", "int8_dynamic")
LANES = 16
CODES_A_WORD = 8
BYTES_A_WORD = 4
GROUP_SIZES = {"int8": (128, 64, 32), "int4": (32,), "int8_dynamic": (64, 32)}
"""Inputs that share a scale: the first that divides D. Of rounded rows 64 cost a seventh more time than 192, and half the error."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a prepared weight's arrays hold. `group_size` is 0 for formats without scales."""

    format: FormatName
    layout: Layout
    input_dim: int
    output_dim: int
    group_size: int

    @property
    def is_quantized(self) -> bool:
        return self.group_size > 0

    @property
    def rounds_inputs(self) -> bool:
        """Whether rows are rounded as the weight is."""
        return self.format == "int8_dynamic"


def make_spec(
    format: FormatName, layout: Layout, shape: tuple[int, ...], group_size: int | None
) -> Spec:
    """Checks what `prepare` was asked for; `shape` is (D, F)."""
    D, F = shape
    if format not in FORMATS or layout not in ("plain", "panels"):
        raise ValueError(
            f'prepare: expected a format of {FORMATS} and layout "plain" or "panels", got {format!r} and {layout!r}.'
        )
    if format in ("float32", "bfloat16"):
        if group_size is not None:
            raise ValueError(f"prepare: {format} has no scales; group_size={group_size}.")
        return Spec(format, layout, D, F, 0)
    return Spec(format, layout, D, F, _group_size(format, D, group_size))


def _group_size(format: FormatName, D: int, group_size: int | None) -> int:
    multiple = {"int4": CODES_A_WORD, "int8_dynamic": BYTES_A_WORD}.get(format, 1)
    if group_size is None:
        common = GROUP_SIZES[format]
        group_size = next((size for size in common if D % size == 0), D)
    if group_size < 1 or D % group_size or group_size % multiple:
        of = f"a multiple of {multiple} that divides" if multiple > 1 else "a divisor of"
        raise ValueError(f"prepare: group_size must be {of} D={D} for {format}, got {group_size}.")
    return group_size


def rank_of_values(spec: Spec) -> int:
    """Axes of `values` that are the weight's own."""
    if spec.layout == "plain":
        return 2
    return 4 if spec.format in ("bfloat16", "int8_dynamic") else 3


def encode(
    weight_DF: Float[Array, "*layers D F"], spec: Spec
) -> tuple[Shaped[Array, ...], Float[Array, ...] | None]:
    """Returns values and scales of a float32 weight."""
    if not spec.is_quantized:
        values_DF, scales = weight_DF.astype(spec.format), None
    else:
        values_DF, scales = _quantize(weight_DF, spec)
    if spec.layout == "panels":
        return _write(_to_panels(values_DF), spec), None if scales is None else _to_panels(scales)
    if spec.format == "int4":
        values_DF = (values_DF[..., ::2, :] + 8 | values_DF[..., 1::2, :] + 8 << 4).astype("uint8")
    return values_DF, scales


def decode(
    values: Shaped[Array, ...], scales: Float[Array, ...] | None, spec: Spec
) -> Float[Array, "*layers D F"]:
    """Returns the numbers that values and scales stand for, float32."""
    if spec.layout == "panels":
        values_DF = _from_panels(_read(values, spec), spec.output_dim)
        scales = None if scales is None else _from_panels(scales, spec.output_dim)
    elif spec.format == "int4":
        halves = jnp.stack([values & 15, values >> 4], axis=-2).astype(jnp.int32) - 8
        values_DF = halves.reshape(*values.shape[:-2], spec.input_dim, spec.output_dim)
    else:
        values_DF = values
    return _scaled(values_DF.astype(jnp.float32), scales, spec)


def decode_outputs(
    values: Shaped[Array, ...],
    scales: Float[Array, ...] | None,
    spec: Spec,
    ids: Int[Array, ...],
) -> Float[Array, "... D"]:
    """Returns the numbers of the outputs `ids`; only these are read. The arrays have no leading axes."""
    ids_R = ids.reshape(-1)
    if spec.layout == "plain":
        take = lambda x: jnp.take(x, ids_R, axis=1, mode="clip")
        of_ids = dataclasses.replace(spec, output_dim=ids.size)
        rows_RD = decode(take(values), None if scales is None else take(scales), of_ids).T
    else:  # panels of one lane
        take = lambda x: jnp.expand_dims(x[ids_R // LANES, :, ids_R % LANES], 2)
        numbers_RD1 = _read(take(values), spec).astype(jnp.float32)
        rows_RD = _scaled(numbers_RD1, None if scales is None else take(scales), spec)[..., 0]
    return rows_RD.reshape(*ids.shape, spec.input_dim)


def rounded_inputs(x: Float[Array, "*rows D"], spec: Spec) -> Float[Array, "*rows D"]:
    """Returns the float32 numbers that rows are rounded to by a format that `rounds_inputs`."""
    groups = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, spec.group_size)
    largest = jnp.abs(groups).max(axis=-1, keepdims=True)
    codes = jnp.round(groups * jnp.where(largest == 0, 0, 127 / largest))
    return (codes * (largest / 127)).reshape(x.shape)


def _scaled(numbers: Array, scales: Array | None, spec: Spec) -> Array:
    return numbers if scales is None else numbers * jnp.repeat(scales, spec.group_size, axis=-2)


def _quantize(weight_DF: Array, spec: Spec) -> tuple[Int[Array, "*layers D F"], Array]:
    """Integers (int8, or int32 for int4) and the scales by which they are near the weight."""
    *layers, D, F = weight_DF.shape
    groups = weight_DF.reshape(*layers, D // spec.group_size, spec.group_size, F)
    if spec.format != "int4":
        scales = jnp.abs(groups).max(axis=-2) / 127
    else:
        farthest = jnp.abs(groups).argmax(axis=-2, keepdims=True)
        scales = jnp.take_along_axis(groups, farthest, axis=-2).squeeze(-2) / -8
    divisor = jnp.where(scales == 0, 1, scales)[..., None, :]
    lowest, highest, dtype = (-8, 7, jnp.int32) if spec.format == "int4" else (-127, 127, jnp.int8)
    codes = jnp.clip(jnp.round(groups / divisor), lowest, highest)
    return codes.astype(dtype).reshape(weight_DF.shape), scales


def _to_panels(x_DF: Shaped[Array, "*layers D F"]) -> Shaped[Array, "*layers P D W"]:
    *layers, D, F = x_DF.shape
    x_DF = jnp.pad(x_DF, [(0, 0)] * (x_DF.ndim - 1) + [(0, -F % LANES)])
    return x_DF.reshape(*layers, D, -1, LANES).swapaxes(-2, -3)


def _from_panels(x_PDW: Shaped[Array, "*layers P D W"], F: int) -> Shaped[Array, "*layers D F"]:
    *layers, _, D, _ = x_PDW.shape
    return x_PDW.swapaxes(-2, -3).reshape(*layers, D, -1)[..., :F]


def _write(numbers_PDW: Shaped[Array, "*layers P D W"], spec: Spec) -> Shaped[Array, ...]:
    """Numbers in panels as the format keeps them."""
    *before, D, W = numbers_PDW.shape
    if spec.format == "bfloat16":
        odd = [(0, 0)] * (numbers_PDW.ndim - 2) + [(0, D % 2), (0, 0)]
        return jnp.pad(numbers_PDW, odd).reshape(*before, -1, 2, W).swapaxes(-1, -2)
    if spec.format == "int4":
        codes = (numbers_PDW + 8).astype(jnp.uint32).reshape(*before, -1, CODES_A_WORD, W)
        return (codes << _shifts()).sum(axis=-2, dtype=jnp.uint32)
    if spec.format == "int8_dynamic":
        positive = (numbers_PDW.astype(jnp.int32) + 128).astype(jnp.uint8)
        return positive.reshape(*before, -1, BYTES_A_WORD, W).swapaxes(-1, -2)
    return numbers_PDW


def _read(values: Shaped[Array, ...], spec: Spec) -> Shaped[Array, "*layers P D W"]:
    """The inverse of `_write`."""
    if spec.format == "bfloat16":
        *before, half, W, _ = values.shape
        return values.swapaxes(-1, -2).reshape(*before, 2 * half, W)[..., : spec.input_dim, :]
    if spec.format == "int4":
        *before, words, W = values.shape
        codes = (values[..., None, :] >> _shifts()) & 15
        return codes.astype(jnp.int32).reshape(*before, words * CODES_A_WORD, W) - 8
    if spec.format == "int8_dynamic":
        *before, words, W, _ = values.shape
        return (
            values.astype(jnp.int32).swapaxes(-1, -2).reshape(*before, words * BYTES_A_WORD, W)
            - 128
        )
    return values


def _shifts() -> Int[Array, "8 1"]:
    """Where each of a word's inputs lies: the even ones in its low half, the odd ones in its high half."""
    inputs = jnp.arange(CODES_A_WORD, dtype=jnp.uint32)[:, None]
    return inputs % 2 * 16 + inputs // 2 * 4
