"""`sample`: one token a row from logits, as each row's parameters say.

    sampled = sample(logits_RV, rows, variant=variant)
    tokens, logprobs = unpack(np.asarray(sampled.packed_RX), variant)

Nothing is sorted, no random number is drawn for a token that is not: each row draws one number and looks up whose share of the
distribution it falls into. Passes over the logits: one for the maximum, one for the weights, and with top_p one to check what
was drawn and one more for each time that it is refused.
Axes: R rows, V vocabulary, C columns, W words of 32 tokens, X packed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int32, UInt

from trellax.inference.sampling.edits import Bias, edited_logits
from trellax.inference.sampling.fixed_point import random_fraction
from trellax.inference.sampling.packing import pack
from trellax.inference.sampling.rows import SamplerVariant, SamplingRows
from trellax.inference.sampling.stripes import Stripes, column_peaks, per_row
from trellax.inference.sampling.support import DRAW, Limits, draw_truncated
from trellax.inference.sampling.truncation import BEYOND, no_cut
from trellax.inference.sampling.weights import Weights


class Sampled(NamedTuple):
    """
    Attributes:
        token_R: the tokens, -1 where the logits are no numbers.
        packed_RX: all that the host wants to know; `unpack` reads it.
    """

    token_R: Int32[Array, " R"]
    packed_RX: Int32[Array, "R X"]


def sample(
    logits_RV: Float[Array, "R V"],
    rows: SamplingRows,
    *,
    variant: SamplerVariant,
    counts_RV: Int[Array, "R V"] | None = None,
    prompt_RV: Bool[Array, "R V"] | None = None,
    bias: Bias | None = None,
    allowed_RW: UInt[Array, "R W"] | None = None,
) -> Sampled:
    """Returns a token for each row.

    In this order: penalties, bias and mask change the logits; these are divided by the temperature; top_k, then top_p of
    what top_k left, then min_p choose from which tokens to draw. Tokens that are equally likely are ordered by id. A row of
    temperature 0 takes the first token in order. What a row gets depends on its own logits, parameters, seed and step
    alone: not on other rows, on how many there are, on the variant (as long as it does what the row needs) or on how
    the logits are sharded.

    Args:
        logits_RV: the model's, of any float type; computed with in float32.
        rows: each row's parameters.
        variant: what the program does; static.
        counts_RV: how often each row has generated each token, for penalties.
        prompt_RV: which tokens are in its prompt, for penalties.
        bias: ids [R, B] and what to add to their logits [R, B], -inf to ban them; ids of V and more do nothing.
        allowed_RW: which tokens may be drawn: bit v % 32 of word v // 32.

    Returns:
        The tokens, with log-probabilities of the model's own logits, before any of these changes. A row whose logits have a
        NaN or +inf, or of which nothing is allowed, gets -1.
    """
    rows = jax.tree.map(jnp.asarray, rows)
    edited_RV = edited_logits(
        logits_RV,
        rows,
        variant,
        counts_RV=counts_RV,
        prompt_RV=prompt_RV,
        bias=bias,
        allowed_RW=allowed_RW,
    )
    token_R = draw_tokens(edited_RV, rows, variant)
    return Sampled(token_R, pack(token_R, logits_RV, variant))


def draw_tokens(
    logits_RV: Float[Array, "R V"], rows: SamplingRows, variant: SamplerVariant
) -> Int32[Array, " R"]:
    """Returns a token for each row from edited logits; -1 where they are no numbers."""
    stripes = Stripes.of(logits_RV.shape[-1])
    logits_RV = stripes.pad(logits_RV, fill=-jnp.inf)
    peaks_RC = column_peaks(stripes, logits_RV)
    peak_R = jnp.max(peaks_RC, axis=-1)
    failed_R = jnp.any(jnp.isnan(peaks_RC), axis=-1) | ~jnp.isfinite(peak_R)
    token_R = _likeliest(stripes, logits_RV, peaks_RC, peak_R)
    if not variant.greedy:
        sampled_R = (rows.temperature > 0) & ~failed_R
        weights = Weights.at_temperature(stripes, logits_RV, peak_R, rows.temperature)
        if variant.truncates:
            limits = Limits.of(weights, peaks_RC, rows, sampled_R)
            drawn_R = draw_truncated(weights, limits, rows)
        else:
            everything = no_cut(logits_RV.shape[0])
            fraction = random_fraction(rows.seed, rows.step, counter=0, purpose=DRAW)
            drawn_R = weights.draw(weights.columns(everything), everything, fraction)
        token_R = jnp.where(sampled_R, drawn_R, token_R)
    return jnp.where(failed_R, -1, token_R).astype(jnp.int32)


def _likeliest(
    stripes: Stripes,
    logits_RV: Float[Array, "R V"],
    peaks_RC: Float[Array, "R C"],
    peak_R: Float[Array, " R"],
) -> Int[Array, " R"]:
    """Returns the token of the greatest logit, of several the one of the lowest id."""
    is_peak_RC = peaks_RC == peak_R[:, None]
    places_C = jnp.arange(stripes.num_columns, dtype=jnp.int32)
    column_R = jnp.min(jnp.where(is_peak_RC, places_C, stripes.num_columns - 1), axis=-1)

    def first_in_column() -> Int[Array, " R"]:
        ids_RJ = stripes.tokens(column_R)
        logits_RJ = jnp.take_along_axis(logits_RV, ids_RJ, axis=-1).astype(jnp.float32)
        return jnp.min(jnp.where(logits_RJ == peak_R[:, None], ids_RJ, BEYOND), axis=-1)

    def first_of_all() -> Int[Array, " R"]:
        peak = per_row(peak_R)
        ids_RC = stripes.fold(
            logits_RV,
            lambda x, ids: jnp.where(x.astype(jnp.float32) == peak, ids, BEYOND),
            how="min",
        )
        return jnp.min(ids_RC, axis=-1)

    tied = jnp.any(jnp.sum(is_peak_RC, axis=-1) > 1)
    return lax.cond(tied, first_of_all, first_in_column)
