"""Log-probabilities of tokens that are given: those of a prompt.

    packed_TX = score(logits_TV, next_ids_T)

Axes: T scored tokens, V vocabulary, X packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, Int

from trellax.inference.sampling import SamplerVariant, pack


def score_fn(num_top: int) -> Callable[..., Any]:
    """Returns the program that scores tokens.

    Args:
        num_top: alternatives to report.
    """
    variant = SamplerVariant(num_logprobs=num_top)

    def score(logits_TV: Float[Array, "T V"], next_ids_T: Int[Array, " T"]) -> Int[Array, "T X"]:
        return pack(next_ids_T, logits_TV, variant)

    return score
