"""Log-probabilities of tokens that are given: those of a prompt.

    packed_TX = score(logits_RV, next_ids_T)

Axes: R rows of logits, T scored tokens, V vocabulary, X packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, Int

from trellax.inference.sampling import SamplerVariant, pack


def score_fn(num_draws: int, num_top: int) -> Callable[..., Any]:
    """Returns the program that scores the rows after the first `num_draws`.

    Args:
        num_draws: rows that tokens are drawn from.
        num_top: alternatives to report.
    """
    variant = SamplerVariant(num_logprobs=num_top)

    def score(logits_RV: Float[Array, "R V"], next_ids_T: Int[Array, " T"]) -> Int[Array, "T X"]:
        return pack(next_ids_T, logits_RV[num_draws:], variant)

    return score
