"""What a step tells the host, in one array: reading it is one transfer.

    sampled = sample(...)                                        # on the device
    tokens, logprobs = unpack(np.asarray(sampled.packed_RX), variant)

Row: token; if log-probabilities are reported, its own and its rank; if alternatives are, their ids and log-probabilities.
Floats are kept as the int32 of their bits. Axes: R rows, V vocabulary, K alternatives, X = 1, 3 or 3 + 2K.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32

from trellax.inference.requests import TokenLogprobs
from trellax.inference.sampling.rows import SamplerVariant
from trellax.inference.sampling.stripes import Stripes, column_peaks, per_row
from trellax.inference.sampling.truncation import Cut, num_before, ranked_tokens


def packed_width(variant: SamplerVariant) -> int:
    """Returns X."""
    return 1 if variant.num_logprobs is None else 3 + 2 * variant.num_logprobs


def pack(
    token_R: Int[Array, " R"], logits_RV: Float[Array, "R V"], variant: SamplerVariant
) -> Int32[Array, "R X"]:
    """Returns what the variant reports of each row.

    Args:
        token_R: the tokens; -1 has the log-probability NaN.
        logits_RV: the model's own.
        variant: what to report.
    """
    parts = [token_R[:, None]]
    if variant.num_logprobs is not None:
        stripes = Stripes.of(logits_RV.shape[-1])
        logits_RV = stripes.pad(logits_RV, fill=-jnp.inf)
        peaks_RC = column_peaks(stripes, logits_RV)
        log_total_R = _log_total(stripes, logits_RV, jnp.max(peaks_RC, axis=-1))
        logprob_R, rank_R = _of_token(stripes, logits_RV, token_R, log_total_R)
        parts += [_bits(logprob_R)[:, None], rank_R[:, None]]
        if variant.num_logprobs:
            top = ranked_tokens(stripes, logits_RV, peaks_RC, variant.num_logprobs)
            missing = ((0, 0), (0, variant.num_logprobs - top.id.shape[-1]))
            parts.append(jnp.pad(top.id, missing))
            top_RK = jnp.pad(top.logit, missing, constant_values=-jnp.inf)
            parts.append(_bits(top_RK - log_total_R[:, None]))
    return jnp.concatenate(parts, axis=-1)


def unpack(
    packed_RX: Int32[np.ndarray, "R X"],
    variant: SamplerVariant,
    num_top: Sequence[int | None] | None = None,
) -> tuple[Int32[np.ndarray, " R"], list[TokenLogprobs | None]]:
    """Returns the tokens and what is known of them.

    Args:
        packed_RX: fetched from the device.
        variant: of the program that made it.
        num_top: how many alternatives each row asked for, None for no log-probabilities. The default is all there are; rows
            beyond its end asked for nothing.
    """
    wanted = _wanted(len(packed_RX), variant, num_top)
    logprobs = [
        None if k is None else _unpacked_row(row_X, variant, k)
        for row_X, k in zip(packed_RX, wanted, strict=True)
    ]
    return packed_RX[:, 0], logprobs


def unpack_verified(
    packed_RX: Int32[np.ndarray, "R X"],
    variant: SamplerVariant,
    num_top: Sequence[int | None] | None = None,
) -> tuple[list[list[int]], list[list[TokenLogprobs] | None]]:
    """Returns each row's new tokens, of which the last is no draft, and what is known of them.

    Args:
        packed_RX: of `verify`: the number of accepted drafts, then each position as `unpack` reads it.
        variant: of the program that made it.
        num_top: as for `unpack`.
    """
    num_rows = len(packed_RX)
    packed_RQX = packed_RX[:, 1:].reshape(num_rows, -1, packed_width(variant))
    tokens: list[list[int]] = []
    logprobs: list[list[TokenLogprobs] | None] = []
    wanted = _wanted(num_rows, variant, num_top)
    for row_QX, num_accepted, k in zip(packed_RQX, packed_RX[:, 0].tolist(), wanted, strict=True):
        row_QX = row_QX[: num_accepted + 1]
        tokens.append(row_QX[:, 0].tolist())
        logprobs.append(
            None if k is None else [_unpacked_row(row_X, variant, k) for row_X in row_QX]
        )
    return tokens, logprobs


def _wanted(
    num_rows: int, variant: SamplerVariant, num_top: Sequence[int | None] | None
) -> list[int | None]:
    """Returns how many alternatives to report of each row, None for no log-probabilities."""
    if variant.num_logprobs is None:
        return [None] * num_rows
    wanted = [variant.num_logprobs] * num_rows if num_top is None else list(num_top)
    return wanted + [None] * (num_rows - len(wanted))


def _unpacked_row(row_X: np.ndarray, variant: SamplerVariant, num_top: int) -> TokenLogprobs:
    num_logprobs = variant.num_logprobs
    assert num_logprobs is not None and num_top <= num_logprobs, (num_top, num_logprobs)
    ids = row_X[3 : 3 + num_top].tolist()
    logprobs = row_X[3 + num_logprobs : 3 + num_logprobs + num_top].view(np.float32).tolist()
    # A vocabulary of fewer tokens, and tokens that a model rules out itself, have nothing to report.
    top = tuple((i, p) for i, p in zip(ids, logprobs, strict=True) if p != -np.inf)
    return TokenLogprobs(int(row_X[0]), float(row_X[1:2].view(np.float32)[0]), int(row_X[2]), top)


def _log_total(
    stripes: Stripes, logits_RV: Float[Array, "R V"], peak_R: Float[Array, " R"]
) -> Float[Array, " R"]:
    """Returns log Σ exp(logit)."""
    peak = per_row(peak_R)
    sums_RC = stripes.fold(
        logits_RV, lambda x, ids: jnp.exp(x.astype(jnp.float32) - peak), how="sum"
    )
    return peak_R + jnp.log(jnp.sum(sums_RC, axis=-1))


def _of_token(
    stripes: Stripes,
    logits_RV: Float[Array, "R V"],
    token_R: Int[Array, " R"],
    log_total_R: Float[Array, " R"],
) -> tuple[Float[Array, " R"], Int[Array, " R"]]:
    """Returns the tokens' log-probabilities and ranks."""
    is_token_R = token_R >= 0
    id_R = jnp.maximum(token_R, 0)
    logit_R = jnp.take_along_axis(logits_RV, id_R[:, None], axis=-1)[:, 0].astype(jnp.float32)
    rank_R = 1 + num_before(stripes, logits_RV, Cut(logit_R, id_R))
    return jnp.where(is_token_R, logit_R - log_total_R, jnp.nan), rank_R


def _bits(values: Float[Array, "*shape"]) -> Int32[Array, "*shape"]:
    return lax.bitcast_convert_type(values, jnp.int32)
