"""`verify`: which drafted tokens stand, and the token after them (2211.17192, 2302.01318).

    verified = verify(logits_RQV, draft_RK, num_drafts_R, rows, variant=variant)
    tokens, logprobs = unpack_verified(np.asarray(verified.packed_RX), variant)

A draft model's drafts are drawn here, too: `draw_draft` gives the distribution with each.

The model has read a row's last token and K drafts after it, so that its logits at position q are those after q drafts. Axes: R rows,
K drafts, Q = K + 1 positions, V vocabulary, N = R · Q, B biases, W words of 32 tokens, X packed.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32, UInt

from trellax.inference.sampling.edits import Bias, edited_logits
from trellax.inference.sampling.fixed_point import (
    Fraction,
    random_fraction,
    wide_float,
    wide_sum,
    widen,
)
from trellax.inference.sampling.packing import pack
from trellax.inference.sampling.rows import SamplerVariant, SamplingRows
from trellax.inference.sampling.sampler import draw_tokens
from trellax.inference.sampling.stripes import Stripes, column_peaks
from trellax.inference.sampling.support import Limits, support_cut
from trellax.inference.sampling.truncation import Cut, no_cut
from trellax.inference.sampling.weights import Weights, pick_column, pick_place, scaled, unsigned

ACCEPT, RESIDUAL = 1, 2
"""Random decisions besides `support.DRAW`."""


class Verified(NamedTuple):
    """
    Attributes:
        tokens_RQ: the accepted drafts and the token after them, then -1. That token is -1 too where its logits are no numbers.
        num_accepted_R: how many drafts are accepted.
        packed_RX: all that the host wants to know; `unpack_verified` reads it.
    """

    tokens_RQ: Int32[Array, "R Q"]
    num_accepted_R: Int32[Array, " R"]
    packed_RX: Int32[Array, "R X"]


def verify(
    logits_RQV: Float[Array, "R Q V"],
    draft_RK: Int[Array, "R K"],
    num_drafts_R: Int[Array, " R"],
    rows: SamplingRows,
    *,
    variant: SamplerVariant,
    draft_probs_RKV: Float[Array, "R K V"] | None = None,
    certain_R: Bool[Array, " R"] | None = None,
    counts_RV: Int[Array, "R V"] | None = None,
    prompt_RV: Bool[Array, "R V"] | None = None,
    bias: Bias | None = None,
    allowed_RQW: UInt[Array, "R Q W"] | None = None,
) -> Verified:
    """Returns tokens that are distributed as if `sample` had been called after each one.

    Without `draft_probs_RKV` the drafts are taken as certain predictions (of an n-gram, or of a greedy draft model): every
    position draws as `sample` does, and drafts are accepted as long as they are what is drawn. That accepts a draft with the
    probability that the model gives it, which is the most that is possible, and the tokens are the very ones that come without
    drafts. With them, a draft d is accepted with probability min(1, p(d) / q(d)); the first that is not is replaced by a draw from
    max(p − q, 0), which accepts more, and draws other tokens for a seed than come without drafts. A greedy row accepts what is the
    likeliest in either case.

    Args:
        logits_RQV: after each draft.
        draft_RK: the drafts.
        num_drafts_R: how many of them each row has; without any it gets what `sample` gives it.
        rows: each row's parameters; `step` is that of position 0.
        variant: as for `sample`.
        draft_probs_RKV: q, the distribution that each draft was drawn from.
        certain_R: rows whose drafts are taken as certain predictions all the same.
        counts_RV: as for `sample`, before the drafts, which are counted here.
        prompt_RV: as for `sample`.
        bias: ids and values [R, Q, B].
        allowed_RQW: each position's mask, given the drafts before it.
    """
    R, Q, V = logits_RQV.shape
    rows = jax.tree.map(jnp.asarray, rows)
    if variant.penalizes:
        assert counts_RV is not None and prompt_RV is not None, "Penalties take counts and prompt."
        counts_RV = _flat(_counts_after(counts_RV, draft_RK))
        prompt_RV = jnp.repeat(prompt_RV, Q, axis=0)
    edited_NV = edited_logits(
        _flat(logits_RQV),
        _at_positions(rows, Q),
        variant,
        counts_RV=counts_RV,
        prompt_RV=prompt_RV,
        bias=None if bias is None else (_flat(bias[0]), _flat(bias[1])),
        allowed_RW=None if allowed_RQW is None else _flat(allowed_RQW),
    )
    edited_RQV = edited_NV.reshape(R, Q, V)
    if draft_probs_RKV is None:
        tokens_RQ = draw_tokens(edited_NV, _at_positions(rows, Q), variant).reshape(R, Q)
        accepted_R = _num_leading(tokens_RQ[:, :-1] == draft_RK, num_drafts_R)
    else:
        is_certain_R = rows.temperature <= 0
        if certain_R is not None:
            is_certain_R |= certain_R
        tokens_RQ, accepted_R = _speculative(
            *(edited_RQV, draft_RK, num_drafts_R, rows, variant, draft_probs_RKV, is_certain_R)
        )
    tokens_RQ = jnp.where(jnp.arange(Q) <= accepted_R[:, None], tokens_RQ, -1)
    packed_NX = pack(tokens_RQ.reshape(-1), _flat(logits_RQV), variant)
    packed_RX = jnp.concatenate([accepted_R[:, None], packed_NX.reshape(R, -1)], axis=-1)
    return Verified(tokens_RQ, accepted_R, packed_RX)


def draw_draft(
    logits_RV: Float[Array, "R V"], rows: SamplingRows, *, variant: SamplerVariant
) -> tuple[Int32[Array, " R"], Float[Array, "R V"] | None]:
    """Returns a draft for each row from a draft model's logits, and the distributions for `verify`; None of a greedy variant.

    A draft that is drawn with the seed and step of the token that it predicts is what that token is, if the models agree: so
    drafts count as certain. Distributions are of use where the seed is another one.
    """
    draft_R = jnp.maximum(draw_tokens(logits_RV, rows, variant), 0)
    if variant.greedy:
        return draft_R, None
    V = logits_RV.shape[-1]
    return draft_R, _Distribution.of(logits_RV, rows, variant).probabilities()[:, :V]


def _speculative(
    logits_RQV: Float[Array, "R Q V"],
    draft_RK: Int[Array, "R K"],
    num_drafts_R: Int[Array, " R"],
    rows: SamplingRows,
    variant: SamplerVariant,
    draft_probs_RKV: Float[Array, "R K V"],
    is_certain_R: Bool[Array, " R"],
) -> tuple[Int32[Array, "R Q"], Int32[Array, " R"]]:
    """Returns tokens and how many drafts are accepted, for drafts that were drawn from known distributions."""
    R, Q, V = logits_RQV.shape
    K = Q - 1
    own_RQ = draw_tokens(_flat(logits_RQV), _at_positions(rows, Q), variant).reshape(R, Q)
    agreed_RK = own_RQ[:, :K] == draft_RK
    if variant.greedy:
        return own_RQ, _num_leading(agreed_RK, num_drafts_R)
    target = _Distribution.of(_flat(logits_RQV[:, :K]), _at_positions(rows, K), variant)
    chance_N = target.probability(draft_RK.reshape(-1))
    draft_chance_N = _take(_flat(draft_probs_RKV), draft_RK.reshape(-1))
    wins_N = _uniform(target.rows, ACCEPT) * draft_chance_N < chance_N
    wins_RK = wins_N.reshape(R, K) & (own_RQ[:, :K] >= 0)
    accepted_RK = jnp.where(is_certain_R[:, None], agreed_RK, wins_RK)
    accepted_R = _num_leading(accepted_RK, num_drafts_R)

    # The token after the accepted drafts: of the residual if a draft was refused there, of the model's own otherwise.
    own_R = _take(own_RQ, accepted_R)
    refused_N = jnp.arange(R) * K + jnp.minimum(accepted_R, K - 1)
    refused = jax.tree.map(lambda values_N: values_N[refused_N], target)
    residual_R = refused.draw_beyond(_flat(draft_probs_RKV)[refused_N], own_R)
    is_own_R = is_certain_R | (accepted_R == num_drafts_R) | (own_R < 0)
    last_R = jnp.where(is_own_R, own_R, residual_R)
    drafts_RQ = jnp.pad(draft_RK, ((0, 0), (0, 1)))
    return jnp.where(jnp.arange(Q) < accepted_R[:, None], drafts_RQ, last_R[:, None]), accepted_R


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Distribution:
    """What tokens of N rows are drawn from.

    Attributes:
        weights: unnormalized.
        cut: before which tokens can be drawn.
        total_N: the weight of these.
        rows: their parameters.
    """

    weights: Weights
    cut: Cut
    total_N: Float[Array, " N"]
    rows: SamplingRows

    @classmethod
    def of(cls, logits_NV: Array, rows: SamplingRows, variant: SamplerVariant) -> _Distribution:
        stripes = Stripes.of(logits_NV.shape[-1])
        logits_NV = stripes.pad(logits_NV, fill=-jnp.inf)
        peaks_NC = column_peaks(stripes, logits_NV)
        peak_N = jnp.max(peaks_NC, axis=-1)
        weights = Weights.at_temperature(stripes, logits_NV, peak_N, rows.temperature)
        cut = no_cut(logits_NV.shape[0])
        if variant.truncates:
            sampled_N = (rows.temperature > 0) & jnp.isfinite(peak_N)
            cut = support_cut(weights, Limits.of(weights, peaks_NC, rows, sampled_N), rows)
        total_N = wide_float(wide_sum(widen(weights.columns(cut))))
        return cls(weights, cut, total_N, rows)

    def probability(self, token_N: Int[Array, " N"]) -> Float[Array, " N"]:
        """Returns the probability of a token each."""
        at = self.weights.place(token_N)
        weight_N = self.weights.of_tokens(token_N).astype(jnp.float32)
        return jnp.where(self.cut.before(at.logit, at.id), weight_N / self.total_N, 0)

    def probabilities(self) -> Float[Array, "N V"]:
        """Returns those of all tokens, and 0 for what the vocabulary is padded with."""
        logits_NV = self.weights.logits_RV.astype(jnp.float32)
        cut = Cut(self.cut.logit[:, None], self.cut.id[:, None])
        ids_V = jnp.arange(logits_NV.shape[1], dtype=jnp.int32)
        probs_NV = self.weights.of(logits_NV).astype(jnp.float32) / self.total_N[:, None]
        return jnp.where(cut.before(logits_NV, ids_V), probs_NV, 0)

    def draw_beyond(
        self, draft_probs_NV: Float[Array, "N V"], otherwise_N: Int[Array, " N"]
    ) -> Int[Array, " N"]:
        """Returns draws from max(p − q, 0), where p is this distribution; `otherwise_N` where rounding has left nothing of it."""
        stripes = self.weights.stripes
        excess_NV = jnp.maximum(self.probabilities() - stripes.pad(draft_probs_NV, fill=0), 0)
        peak_N = jnp.max(excess_NV, axis=-1)
        peak_N1 = jnp.where(peak_N > 0, peak_N, 1)[:, None]
        weights_NV = scaled(excess_NV / peak_N1)
        columns_NC = unsigned(stripes.fold(weights_NV, lambda weights, ids: weights, how="sum"))
        fraction = _fraction(self.rows, RESIDUAL)
        column_N, rest = pick_column(columns_NC, fraction)
        ids_NJ = stripes.tokens(column_N)
        weights_NJ = jnp.take_along_axis(weights_NV, ids_NJ, axis=-1)
        place_N = pick_place(weights_NJ, rest, weights_NJ.astype(jnp.float32))
        token_N = jnp.take_along_axis(ids_NJ, place_N[:, None], axis=-1)[:, 0]
        return jnp.where(peak_N > 0, token_N, otherwise_N)


def _flat(values: Array) -> Array:
    """Returns [R, Q, …] as [N, …]."""
    return values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])


def _at_positions(rows: SamplingRows, num_positions: int) -> SamplingRows:
    """Returns the rows of every position, N of them."""
    repeated = jax.tree.map(lambda values_R: jnp.repeat(values_R, num_positions), rows)
    position_N = jnp.tile(jnp.arange(num_positions, dtype=jnp.int32), rows.step.shape[0])
    return dataclasses.replace(repeated, step=repeated.step + position_N)


def _counts_after(counts_RV: Int[Array, "R V"], draft_RK: Int[Array, "R K"]) -> Int[Array, "R Q V"]:
    """Returns the counts that each position sees, which includes the drafts before it."""
    R, K = draft_RK.shape
    shape = (R, K + 1, K)
    row, position, draft = (
        jnp.arange(n).reshape(s) for n, s in zip(shape, ((-1, 1, 1), (-1, 1), (-1,)), strict=True)
    )
    counts_RQV = jnp.repeat(counts_RV[:, None], K + 1, axis=1)
    is_before = jnp.broadcast_to(draft < position, shape).astype(counts_RV.dtype)
    return counts_RQV.at[row, position, draft_RK[:, None]].add(is_before, mode="drop")


def _num_leading(accepted_RK: Bool[Array, "R K"], num_drafts_R: Array) -> Int32[Array, " R"]:
    """Returns how many drafts are accepted before one is not."""
    is_draft_RK = jnp.arange(accepted_RK.shape[1]) < num_drafts_R[:, None]
    leading_RK = jnp.cumprod((accepted_RK & is_draft_RK).astype(jnp.int32), axis=-1)
    return jnp.sum(leading_RK, axis=-1, dtype=jnp.int32)


def _take(values_NV: Array, id_N: Int[Array, " N"]) -> Array:
    return jnp.take_along_axis(values_NV, id_N[:, None], axis=-1)[:, 0]


def _fraction(rows: SamplingRows, purpose: int) -> Fraction:
    return random_fraction(rows.seed, rows.step, counter=0, purpose=purpose)


def _uniform(rows: SamplingRows, purpose: int) -> Float[Array, " N"]:
    """Returns float32 numbers in [0, 1), multiples of 2⁻²⁴."""
    fraction = _fraction(rows, purpose)
    return ((fraction.first << 8) | (fraction.second >> 8)).astype(jnp.float32) * 2.0**-24
