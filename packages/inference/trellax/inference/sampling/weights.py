"""Tokens' unnormalized probabilities as whole numbers, and draws from them.

    weights = Weights.at_temperature(stripes, logits_RV, peak_R, temperature_R)
    columns_RC = weights.columns(cut)
    token_R = weights.draw(columns_RC, cut, random_fraction(...))

The likeliest token has 2²⁶ and the others are rounded to whole numbers, which changes a probability by at most 2⁻²⁷ of the
likeliest token's. A column's 32 fit uint32. Axes: R rows, V vocabulary, C columns, J stripes.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt

from trellax.inference.sampling.fixed_point import (
    Fraction,
    Wide,
    pick,
    wide_fraction,
    wide_sum,
    widen,
)
from trellax.inference.sampling.stripes import Stripes, per_row
from trellax.inference.sampling.truncation import Cut

SCALE = 2.0**26

MIN_TEMPERATURE = 1e-5
"""Lower ones count as this one, at which only ties are drawn from."""

_GROUP = 64


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["logits_RV", "peak_R", "temperature_R", "inverse_R"],
    meta_fields=["stripes"],
)
@dataclasses.dataclass(frozen=True)
class Weights:
    """The weight of each row's tokens, softmax(logits / temperature) times a number of the row.

    Attributes:
        stripes: the vocabulary's layout.
        logits_RV: padded.
        peak_R: the greatest of each row.
        temperature_R: what they are divided by.
        inverse_R: its inverse.
    """

    stripes: Stripes
    logits_RV: Float[Array, "R V"]
    peak_R: Float[Array, " R"]
    temperature_R: Float[Array, " R"]
    inverse_R: Float[Array, " R"]

    @classmethod
    def at_temperature(
        cls,
        stripes: Stripes,
        logits_RV: Float[Array, "R V"],
        peak_R: Float[Array, " R"],
        temperature_R: Float[Array, " R"],
    ) -> Weights:
        temperature_R = jnp.maximum(temperature_R, MIN_TEMPERATURE)
        return cls(stripes, logits_RV, peak_R, temperature_R, 1 / temperature_R)

    def of(self, logits: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
        """Returns the weights of logits, whose first dimension is R."""
        spread = (slice(None),) + (None,) * (logits.ndim - 1)
        return scaled(jnp.exp((logits - self.peak_R[spread]) * self.inverse_R[spread]))

    def columns(self, cut: Cut) -> UInt[Array, "R C"]:
        """Returns the summed weights of each column's tokens before the cut."""
        cut = Cut(per_row(cut.logit), per_row(cut.id))

        def weigh(logits: Array, ids: Array) -> Array:
            logits = logits.astype(jnp.float32)
            return jnp.where(cut.before(logits, ids), self.of(logits), 0)

        return unsigned(self.stripes.fold(self.logits_RV, weigh, how="sum"))

    def draw(
        self, columns_RC: UInt[Array, "R C"], cut: Cut, fraction: Fraction
    ) -> Int[Array, " R"]:
        """Returns a token before the cut, by the inverse of the cumulative distribution.

        Args:
            columns_RC: of the same cut.
            cut: what comes before it may be drawn.
            fraction: uniform.
        """
        column_R, rest = pick_column(columns_RC, fraction)
        ids_RJ = self.stripes.tokens(column_R)
        logits_RJ = jnp.take_along_axis(self.logits_RV, ids_RJ, axis=-1).astype(jnp.float32)
        before_RJ = Cut(cut.logit[:, None], cut.id[:, None]).before(logits_RJ, ids_RJ)
        weights_RJ = jnp.where(before_RJ, self.of(logits_RJ), 0)
        place_R = pick_place(weights_RJ, rest, jnp.where(before_RJ, logits_RJ, -jnp.inf))
        return jnp.take_along_axis(ids_RJ, place_R[:, None], axis=-1)[:, 0]

    def place(self, token_R: Int[Array, " R"]) -> Cut:
        """Returns where tokens are in the order of tokens."""
        logits_R = jnp.take_along_axis(self.logits_RV, token_R[:, None], axis=-1)[:, 0]
        return Cut(logits_R.astype(jnp.float32), token_R)

    def of_tokens(self, token_R: Int[Array, " R"]) -> UInt[Array, " R"]:
        """Returns the weight of one token a row."""
        return self.of(self.place(token_R).logit).astype(jnp.uint32)


def scaled(ratio: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Returns the weight of tokens that are so many times as likely as the likeliest."""
    return jnp.round(ratio * SCALE).astype(jnp.int32)


def unsigned(columns_RC: Int[Array, "R C"]) -> UInt[Array, "R C"]:
    """Returns sums as they are; as int32, to which vector instructions convert, 32 times 2²⁶ wraps around."""
    return lax.bitcast_convert_type(columns_RC, jnp.uint32)


def pick_column(
    columns_RC: UInt[Array, "R C"], fraction: Fraction
) -> tuple[Int[Array, " R"], Wide]:
    """Returns the column that holds the given fraction of the weight, and how much of it is inside of the column."""
    num_rows, num_columns = columns_RC.shape
    num_groups = -(-num_columns // _GROUP)
    padding = ((0, 0), (0, num_groups * _GROUP - num_columns))
    columns_RGN = jnp.pad(columns_RC, padding).reshape(num_rows, num_groups, _GROUP)
    groups_RG = wide_sum(widen(columns_RGN))
    group_R, rest = pick(groups_RG, wide_fraction(wide_sum(groups_RG), fraction))
    columns_RN = jnp.take_along_axis(columns_RGN, group_R[:, None, None], axis=1)[:, 0]
    place_R, rest = pick(widen(columns_RN), rest)
    return group_R * _GROUP + place_R, rest


def pick_place(
    weights_RJ: Int[Array, "R J"], rest: Wide, preference_RJ: Float[Array, "R J"]
) -> Int[Array, " R"]:
    """Returns the place in a column that holds `rest` of its weight.

    Args:
        weights_RJ: of the column's tokens.
        rest: of `pick_column`.
        preference_RJ: its greatest is taken should the weights, which another loop computed than the columns' sums,
            be less by a rounding.
    """
    place_R, _ = pick(widen(weights_RJ.astype(jnp.uint32)), rest)
    picked_R = jnp.take_along_axis(weights_RJ, place_R[:, None], axis=-1)[:, 0]
    return jnp.where(picked_R > 0, place_R, jnp.argmax(preference_RJ, axis=-1).astype(jnp.int32))
