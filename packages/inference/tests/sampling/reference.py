"""What sampling must do, in plain NumPy and float64: sorts everything, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trellax.inference.requests import SamplingParams


def edited(
    logits_V: np.ndarray,
    params: SamplingParams,
    *,
    generated: Sequence[int] = (),
    prompt: Sequence[int] = (),
    banned: Sequence[int] = (),
    allowed: Sequence[int] | None = None,
) -> np.ndarray:
    """Returns float64 logits after penalties, biases and masks."""
    logits_V = logits_V.astype(np.float64)
    for token in {*generated, *prompt}:
        factor = params.repetition_penalty
        logits_V[token] = (
            logits_V[token] / factor if logits_V[token] > 0 else logits_V[token] * factor
        )
    for token in set(generated):
        logits_V[token] -= params.presence_penalty
        logits_V[token] -= params.frequency_penalty * list(generated).count(token)
    for token, bias in params.logit_bias:
        logits_V[token] += bias
    logits_V[list(banned)] = -np.inf
    if allowed is not None:
        forbidden = [v for v in range(len(logits_V)) if v not in set(allowed)]
        logits_V[forbidden] = -np.inf
    return logits_V


def distribution(logits_V: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Returns each token's probability, given edited logits."""
    order = np.lexsort((np.arange(len(logits_V)), -logits_V))
    probs_V = np.zeros(len(logits_V))
    if params.temperature == 0:
        probs_V[order[0]] = 1
        return probs_V
    with np.errstate(under="ignore"):
        mass = np.exp((logits_V - logits_V[order[0]]) / params.temperature)
    kept = order[: params.top_k] if params.top_k else order
    share = mass[kept] / mass[kept].sum()
    # Thresholds are float32 on the device.
    before = np.concatenate([[0], np.cumsum(share)[:-1]])
    kept = kept[(before < np.float32(params.top_p)) | (np.arange(len(kept)) == 0)]
    kept = kept[mass[kept] >= np.float32(params.min_p)]
    probs_V[kept] = mass[kept] / mass[kept].sum()
    return probs_V


def margin(logits_V: np.ndarray, params: SamplingParams) -> float:
    """Returns how far the nearest token is from where it would be kept or dropped otherwise, as a share of the mass."""
    order = np.lexsort((np.arange(len(logits_V)), -logits_V))
    mass = np.exp((logits_V[order] - logits_V[order[0]]) / params.temperature)
    kept = mass[: params.top_k] if params.top_k else mass
    share = np.cumsum(kept) / kept.sum()
    nearest_p = np.min(np.abs(share[:-1] - params.top_p), initial=1.0) if params.top_p < 1 else 1.0
    nearest_min = np.min(np.abs(mass[1:] - params.min_p), initial=1.0) if params.min_p else 1.0
    return float(min(nearest_p, nearest_min))
