"""Which tokens top_k, top_p and min_p leave, as cuts in the order of tokens from the likeliest to the least.

    cut = top_k_cut(stripes, logits_RV, peaks_RC, top_k_R)
    kept_RV = cut.before(logits_RV, ids_V)

Tokens are ordered by falling logit, then by rising id. Each of the three keeps the first tokens of that order, so each is one
place in it, and several together are the earliest place. Axes: R rows, V vocabulary, C columns, K a list's length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from trellax.inference.sampling.stripes import Stripes, per_row

BEYOND = 2**31 - 1
"""An id that all tokens come before."""

RANKED = 136
"""Tokens that are ranked to find a top_k; a greater one, or ties around the last of these, take a search."""


class Cut(NamedTuple):
    """A place in the order of tokens: before the token of this logit and id, if there were one."""

    logit: Float[Array, "*R"]
    id: Int[Array, "*R"]

    def before(
        self, logits: Float[Array, "*shape"], ids: Int[Array, "*ids"]
    ) -> Bool[Array, "*shape"]:
        """Returns which tokens come before it."""
        return (logits > self.logit) | ((logits == self.logit) & (ids < self.id))


def no_cut(num_rows: int) -> Cut:
    return Cut(jnp.full(num_rows, -jnp.inf), jnp.full(num_rows, BEYOND, jnp.int32))


def earlier(a: Cut, b: Cut) -> Cut:
    return select(a.before(b.logit, b.id), b, a)


def select(which_R: Bool[Array, " R"], a: Cut, b: Cut) -> Cut:
    return Cut(jnp.where(which_R, a.logit, b.logit), jnp.where(which_R, a.id, b.id))


def min_p_cut(
    peak_R: Float[Array, " R"], temperature_R: Float[Array, " R"], min_p_R: Float[Array, " R"]
) -> Cut:
    """Keeps tokens at least `min_p` times as likely as the likeliest (2407.01082)."""
    floor_R = peak_R + temperature_R * jnp.log(min_p_R)
    return Cut(floor_R, jnp.full(floor_R.shape, BEYOND, jnp.int32))


def ranked_tokens(
    stripes: Stripes, logits_RV: Float[Array, "R V"], peaks_RC: Float[Array, "R C"], num_tokens: int
) -> Cut:
    """Returns logits and ids of the first K tokens in order, best first.

    The K likeliest tokens are in the K columns of the greatest peaks. Where the last of the list ties with tokens that are
    not in it, those in it need not be the ones of the lowest ids.
    """
    num_columns = min(num_tokens, stripes.num_columns)
    _, columns_RK = lax.top_k(peaks_RC, num_columns)
    ids_RN = stripes.tokens(columns_RK).reshape(logits_RV.shape[0], -1)
    values_RN = jnp.take_along_axis(logits_RV, ids_RN, axis=-1).astype(jnp.float32)
    values_RK, places_RK = lax.top_k(values_RN, min(num_tokens, ids_RN.shape[-1]))
    ids_RK = jnp.take_along_axis(ids_RN, places_RK, axis=-1)
    negative_RK, ids_RK = lax.sort((-values_RK, ids_RK), dimension=-1, num_keys=2)
    return Cut(-negative_RK, ids_RK)


def top_k_cut(
    stripes: Stripes,
    logits_RV: Float[Array, "R V"],
    peaks_RC: Float[Array, "R C"],
    top_k_R: Int[Array, " R"],
) -> Cut:
    """Keeps exactly the first `top_k` tokens; all where it is 0."""
    ranked = ranked_tokens(stripes, logits_RV, peaks_RC, RANKED)
    last_R1 = jnp.clip(top_k_R - 1, 0, ranked.id.shape[-1] - 1)[:, None]
    logit_R = jnp.take_along_axis(ranked.logit, last_R1, axis=-1)[:, 0]
    id_R = jnp.take_along_axis(ranked.id, last_R1, axis=-1)[:, 0]
    listed_R = (top_k_R < ranked.id.shape[-1]) & (logit_R > ranked.logit[:, -1])
    found = Cut(logit_R, id_R + 1)

    def kept(cut: Cut) -> Bool[Array, " R"]:
        return num_before(stripes, logits_RV, cut) >= top_k_R

    all_listed = jnp.all(listed_R | (top_k_R == 0))
    searched = lax.cond(all_listed, lambda: found, lambda: search(kept, logits_RV.shape[0]))
    cut = select(listed_R, found, searched)
    return select(top_k_R > 0, cut, no_cut(logits_RV.shape[0]))


def num_before(stripes: Stripes, logits_RV: Float[Array, "R V"], cut: Cut) -> Int[Array, " R"]:
    """Returns how many tokens come before it."""
    cut = Cut(per_row(cut.logit), per_row(cut.id))
    count_RC = stripes.fold(
        logits_RV,
        lambda logits, ids: cut.before(logits.astype(jnp.float32), ids).astype(jnp.int32),
        how="sum",
    )
    return jnp.sum(count_RC, axis=-1, dtype=jnp.int32)


def search(enough: Callable[[Cut], Bool[Array, " R"]], num_rows: int) -> Cut:
    """Returns the earliest cut before which there is enough, by bisection: first of logits, then of ids.

    Args:
        enough: tells it for one cut of each row. True of all cuts later than one of which it is.
        num_rows: R.
    """

    def bisect(low: int, high: int, enough_at: Callable[[Array], Array], num_bits: int) -> Array:
        """The least number in (low, high] at which there is enough, which there is at `high`."""

        def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low_R, high_R = bounds
            # The mean of two numbers whose sum may be too great.
            middle_R = (low_R >> 1) + (high_R >> 1) + (low_R & high_R & 1)
            is_enough_R = enough_at(middle_R)
            return jnp.where(is_enough_R, low_R, middle_R), jnp.where(is_enough_R, middle_R, high_R)

        bounds = (jnp.full(num_rows, low, jnp.int32), jnp.full(num_rows, high, jnp.int32))
        return lax.fori_loop(0, num_bits, halve, bounds)[1]

    # Keys fall as logits rise, so that later cuts have greater ones.
    infinity = 0x7F800000
    key_R = bisect(
        -infinity - 1,
        infinity,
        lambda key_R: enough(Cut(_logit_of(-key_R), jnp.int32(BEYOND) + 0 * key_R)),
        32,
    )
    logit_R = _logit_of(-key_R)
    id_R = bisect(0, BEYOND, lambda id_R: enough(Cut(logit_R, id_R)), 31)
    return Cut(logit_R, id_R)


def _logit_of(key: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the float32 whose rank among all is `key`: an int32 that rises with it, 0 for 0."""
    bits = jnp.where(key < 0, (-key) | jnp.int32(-(2**31)), key)
    return lax.bitcast_convert_type(bits, jnp.float32)
