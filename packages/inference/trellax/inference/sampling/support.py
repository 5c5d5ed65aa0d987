"""What top_k, top_p and min_p leave of distributions: enough to draw from it, or all of it.

    limits = Limits.of(weights, peaks_RC, rows, sampled_R)
    token_R = draw_truncated(weights, limits, rows)
    cut = support_cut(weights, limits, rows)

Axes: R rows, V vocabulary, C columns.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from trellax.inference.sampling.fixed_point import (
    Wide,
    as_fraction,
    random_fraction,
    wide_fraction,
    wide_less,
    wide_subtract,
    wide_sum,
    widen,
)
from trellax.inference.sampling.rows import SamplingRows
from trellax.inference.sampling.truncation import (
    Cut,
    earlier,
    min_p_cut,
    no_cut,
    search,
    select,
    top_k_cut,
)
from trellax.inference.sampling.weights import Weights

DRAW = 0
"""Which of a step's random decisions takes a token; `verify` has more."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a token must satisfy.

    Attributes:
        sampled_R: rows that are drawn at all.
        cut: before this, which is what top_k leaves, and min_p in rows that have no top_p.
        columns_RC: the weight of the tokens before `cut`.
        mass: their sum.
        nucleus: what the weight of the tokens before one is less than, if it is in the nucleus.
        min_p: before this.
    """

    sampled_R: Bool[Array, " R"]
    cut: Cut
    columns_RC: UInt[Array, "R C"]
    mass: Wide
    nucleus: Wide
    min_p: Cut

    @classmethod
    def of(
        cls,
        weights: Weights,
        peaks_RC: Float[Array, "R C"],
        rows: SamplingRows,
        sampled_R: Bool[Array, " R"],
    ) -> Limits:
        # One of the whole vocabulary leaves everything, and is not to be searched for.
        cuts_R = sampled_R & (rows.top_k < weights.logits_RV.shape[1])
        top_k_R = jnp.where(cuts_R, rows.top_k, 0)
        top_k = lax.cond(
            jnp.any(top_k_R > 0),
            lambda: top_k_cut(weights.stripes, weights.logits_RV, peaks_RC, top_k_R),
            lambda: no_cut(top_k_R.shape[0]),
        )
        min_p = min_p_cut(weights.peak_R, weights.temperature_R, rows.min_p)
        # top_p is a share of what top_k leaves, so its rows cannot begin with less.
        cut = select(rows.top_p < 1, top_k, earlier(top_k, min_p))
        columns_RC = weights.columns(cut)
        mass = wide_sum(widen(columns_RC))
        nucleus = _nucleus(mass, rows.top_p)
        return cls(sampled_R, cut, columns_RC, mass, nucleus, min_p)


def draw_truncated(weights: Weights, limits: Limits, rows: SamplingRows) -> Int[Array, " R"]:
    """Returns a token within the limits for each row that is sampled.

    top_p is met by rejection: what is drawn from a set that contains the nucleus is, if it happens to be in there, distributed as a
    draw from the nucleus. That is told by the mass of the tokens before it. If it is not, neither is what comes after it, and the
    next draw is from those before, whose columns have just been summed.
    """

    def draw(columns_RC: Array, cut: Cut, counter: Array | int) -> Array:
        fraction = random_fraction(rows.seed, rows.step, counter=counter, purpose=DRAW)
        return weights.draw(columns_RC, cut, fraction)

    def doubtful(token_R: Array, mass: Wide) -> Array:
        """Whether a token, drawn from tokens of this mass, may be none of those that are left."""
        at, own = weights.place(token_R), widen(weights.of_tokens(token_R))
        in_nucleus_R = wide_less(wide_subtract(mass, own), limits.nucleus)
        return ~(limits.min_p.before(at.logit, at.id) & in_nucleus_R)

    def check(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        token_R, pending_R, counter = state
        at = weights.place(token_R)
        too_rare_R = ~limits.min_p.before(at.logit, at.id)
        cut = select(too_rare_R, limits.min_p, at)
        columns_RC = weights.columns(cut)
        mass = wide_sum(widen(columns_RC))
        refused_R = pending_R & (too_rare_R | ~wide_less(mass, limits.nucleus))
        token_R = jnp.where(refused_R, draw(columns_RC, cut, counter), token_R)
        return token_R, refused_R & doubtful(token_R, mass), counter + 1

    token_R = draw(limits.columns_RC, limits.cut, 0)
    state = (token_R, limits.sampled_R & doubtful(token_R, limits.mass), jnp.int32(1))
    return lax.while_loop(lambda state: jnp.any(state[1]), check, state)[0]


def support_cut(weights: Weights, limits: Limits, rows: SamplingRows) -> Cut:
    """Returns where each row's tokens that can be drawn end. Slower than to draw one: some 60 passes if a row has top_p."""
    num_rows = limits.sampled_R.shape[0]
    is_limited_R = limits.sampled_R & (rows.top_p < 1)

    def enough(cut: Cut) -> Bool[Array, " R"]:
        mass = wide_sum(widen(weights.columns(earlier(cut, limits.cut))))
        return ~wide_less(mass, limits.nucleus)

    nucleus = lax.cond(
        jnp.any(is_limited_R), lambda: search(enough, num_rows), lambda: no_cut(num_rows)
    )
    nucleus = select(is_limited_R, nucleus, no_cut(num_rows))
    return earlier(earlier(limits.cut, limits.min_p), nucleus)


def _nucleus(mass: Wide, top_p_R: Float[Array, " R"]) -> Wide:
    """Returns top_p of the mass (1904.09751), at least the least there is; more than all of it for 1."""
    part = wide_fraction(mass, as_fraction(top_p_R), round_up=True)
    is_zero_R = (part.high == 0) & (part.low == 0)
    is_all_R = top_p_R >= 1
    high_R = jnp.where(is_all_R, jnp.uint32(0xFFFFFFFF), part.high)
    return Wide(high_R, jnp.where(is_zero_R, 1, part.low))
