"""Whole numbers of 48 bits as two arrays, and random ones: sums that do not depend on the order of addition.

    total = wide_sum(widen(values_RN))
    position, rest = pick(widen(values_RN), wide_fraction(total, random_fraction(seed_R, step_R, counter=0, purpose=0)))

A row's draw must not change with the shape of the batch, the compiled program or the number of devices. Floating-point sums
do, sums of integers do not; those of a vocabulary's weights take more than 32 bits. Axes: R rows, N values.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Bool, Float, Int, UInt


class Wide(NamedTuple):
    """The number high · 2¹⁶ + low, with low < 2¹⁶; both are uint32 arrays of one shape."""

    high: UInt[Array, "*shape"]
    low: UInt[Array, "*shape"]


class Fraction(NamedTuple):
    """The number first · 2⁻¹⁶ + second · 2⁻³² + third · 2⁻⁴⁸ in [0, 1); each is a uint32 array below 2¹⁶."""

    first: UInt[Array, " R"]
    second: UInt[Array, " R"]
    third: UInt[Array, " R"]


def widen(values: UInt[Array, "*shape"]) -> Wide:
    """Returns uint32 numbers as wide ones."""
    return Wide(values >> 16, values & 0xFFFF)


def wide_sum(values: Wide) -> Wide:
    """Returns the sum over the last dimension, which must have fewer than 2¹⁶ numbers."""
    return _carry(*(jnp.sum(part, axis=-1, dtype=jnp.uint32) for part in values))


def wide_less(a: Wide, b: Wide) -> Bool[Array, "*shape"]:
    return (a.high < b.high) | ((a.high == b.high) & (a.low < b.low))


def wide_subtract(a: Wide, b: Wide) -> Wide:
    """Returns a − b, where a ≥ b."""
    borrow = (a.low < b.low).astype(jnp.uint32)
    return Wide(a.high - b.high - borrow, a.low + (borrow << 16) - b.low)


def wide_float(value: Wide) -> Float[Array, "*shape"]:
    """Returns the nearest float32, nearly."""
    return value.high.astype(jnp.float32) * 65536 + value.low.astype(jnp.float32)


def wide_fraction(value: Wide, fraction: Fraction, *, round_up: bool = False) -> Wide:
    """Returns value · fraction, rounded down or up, by long multiplication in base 2¹⁶."""
    digits = (value.low, value.high & 0xFFFF, value.high >> 16)
    columns = [jnp.zeros_like(value.low) for _ in range(6)]
    for i, a in enumerate(digits):
        for j, b in enumerate(reversed(fraction)):
            columns[i + j] += (a * b) & 0xFFFF
            columns[i + j + 1] += (a * b) >> 16
    for i in range(5):
        columns[i + 1] += columns[i] >> 16
        columns[i] &= 0xFFFF
    product = Wide((columns[5] << 16) | columns[4], columns[3])
    if not round_up:
        return product
    rest = ((columns[0] | columns[1] | columns[2]) != 0).astype(jnp.uint32)
    return _carry(product.high, product.low + rest)


def as_fraction(values_R: Float[Array, " R"]) -> Fraction:
    """Returns float32 numbers in [0, 1) as fractions, exact down to 2⁻⁴⁸."""
    digits = []
    for _ in range(3):
        values_R = values_R * 65536
        digits.append(values_R.astype(jnp.uint32))
        values_R = values_R - jnp.floor(values_R)
    return Fraction(*digits)


def random_fraction(
    seed_R: UInt[Array, " R"],
    step_R: Int[Array, " R"],
    *,
    counter: Int[Array, ""] | int,
    purpose: int,
) -> Fraction:
    """Returns uniform fractions: a Threefry-2x32 block (Salmon et al., SC 2011) keyed by (seed, step).

    Args:
        seed_R: of each row.
        step_R: tokens that it has generated.
        counter: how many draws for this purpose the step has seen.
        purpose: which of the step's decisions this is.
    """
    block = jnp.stack([jnp.uint32(counter), jnp.uint32(purpose)])
    words_R2 = jax.vmap(lambda seed, step: threefry_2x32((seed, step), block))(
        seed_R.astype(jnp.uint32), step_R.astype(jnp.uint32)
    )
    return Fraction(words_R2[:, 0] >> 16, words_R2[:, 0] & 0xFFFF, words_R2[:, 1] >> 16)


def pick(values_RN: Wide, target_R: Wide) -> tuple[Int[Array, " R"], Wide]:
    """Returns the first position at which the running sum exceeds the target, and what of the target is left there.

    Args:
        values_RN: sizes of neighbouring intervals, N < 2¹⁶ of them.
        target_R: below their sum; a greater one picks the last.
    """
    ends_RN = _carry(*(jnp.cumsum(part, axis=-1, dtype=jnp.uint32) for part in values_RN))
    target_R1 = Wide(*(part[:, None] for part in target_R))
    passed_RN = ~wide_less(target_R1, ends_RN)
    num_values = passed_RN.shape[-1]
    index_R = jnp.minimum(jnp.sum(passed_RN, axis=-1, dtype=jnp.int32), num_values - 1)
    before_R1 = jnp.maximum(index_R - 1, 0)[:, None]
    start_R = Wide(
        *(
            jnp.where(index_R > 0, jnp.take_along_axis(part, before_R1, axis=-1)[:, 0], 0)
            for part in ends_RN
        )
    )
    return index_R, wide_subtract(target_R, start_R)


def _carry(high: UInt[Array, "*shape"], low: UInt[Array, "*shape"]) -> Wide:
    return Wide(high + (low >> 16), low & 0xFFFF)
