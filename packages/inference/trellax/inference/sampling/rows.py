"""How each row of a step is sampled: arrays that the program takes, and what the program must be able to do.

    rows = SamplingRows.of([request.params], seeds=[7], steps=[0], num_rows=8)
    variant = variant_for([request.params], constrained=False)

Axes: R rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from trellax.inference.requests import MAX_LOGPROBS, SamplingParams

NUM_ALTERNATIVES = MAX_LOGPROBS
"""How many a program reports if any row asks for some; the host drops what a row did not ask for."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SamplingRows:
    """The parameters of each row, as `SamplingParams` explains them: NumPy arrays on the host, JAX's in a program.

    Attributes:
        temperature: 0 for the likeliest token.
        top_k: 0 for all tokens.
        top_p: 1 for all tokens.
        min_p: 0 for all tokens.
        presence: taken off the logit of what was generated.
        frequency: the same, times how often it was.
        repetition: divides positive logits of what was seen, multiplies negative ones.
        seed: of the row's draws.
        step: how many tokens this request has generated before this one.
    """

    temperature: Float[Array, " R"]
    top_k: Int[Array, " R"]
    top_p: Float[Array, " R"]
    min_p: Float[Array, " R"]
    presence: Float[Array, " R"]
    frequency: Float[Array, " R"]
    repetition: Float[Array, " R"]
    seed: UInt[Array, " R"]
    step: Int[Array, " R"]

    @classmethod
    def of(
        cls,
        params: Sequence[SamplingParams],
        seeds: Sequence[int],
        steps: Sequence[int],
        num_rows: int,
    ) -> SamplingRows:
        """Returns NumPy arrays of `num_rows` rows; the rows after the last of `params` are greedy.

        Args:
            params: of the first rows.
            seeds: of the same rows; any integers, of which the lowest 32 bits count.
            steps: tokens that each row's request has generated.
            num_rows: R.
        """
        assert len(params) == len(seeds) == len(steps) <= num_rows, (len(params), num_rows)

        def column(name: str, *, dtype: type, default: float) -> Any:
            values: np.ndarray = np.full(num_rows, default, dtype)
            values[: len(params)] = [getattr(p, name) for p in params]
            return values

        return cls(
            temperature=column("temperature", dtype=np.float32, default=0),
            top_k=column("top_k", dtype=np.int32, default=0),
            top_p=column("top_p", dtype=np.float32, default=1),
            min_p=column("min_p", dtype=np.float32, default=0),
            presence=column("presence_penalty", dtype=np.float32, default=0),
            frequency=column("frequency_penalty", dtype=np.float32, default=0),
            repetition=column("repetition_penalty", dtype=np.float32, default=1),
            seed=_padded([seed & 0xFFFFFFFF for seed in seeds], num_rows, np.uint32),
            step=_padded(steps, num_rows, np.int32),
        )


@dataclasses.dataclass(frozen=True)
class SamplerVariant:
    """What a program must be able to do. Rows that need less of it are sampled just the same.

    Attributes:
        greedy: every row has temperature 0, so nothing is drawn.
        truncates: a row has top_k, top_p or min_p.
        penalizes: a row has a presence, frequency or repetition penalty.
        edits: a row has biases, banned tokens or a mask.
        num_logprobs: alternatives to report with each token (0 or `NUM_ALTERNATIVES`); None for no log-probabilities.
    """

    greedy: bool = False
    truncates: bool = False
    penalizes: bool = False
    edits: bool = False
    num_logprobs: int | None = None

    def covers(self, other: SamplerVariant) -> bool:
        """Returns whether this one can do all that another can."""
        told = lambda variant: -1 if variant.num_logprobs is None else variant.num_logprobs
        return (
            (other.greedy or not self.greedy)
            and (self.truncates or not other.truncates)
            and (self.penalizes or not other.penalizes)
            and (self.edits or not other.edits)
            and told(self) >= told(other)
        )


def variant_for(params: Sequence[SamplingParams], constrained: bool) -> SamplerVariant:
    """Returns the least that samples these rows.

    Args:
        params: of all rows.
        constrained: whether a row has a mask of allowed tokens.
    """
    sampled = [p for p in params if p.temperature > 0]
    wanted = [p.logprobs for p in params if p.logprobs is not None]
    return SamplerVariant(
        greedy=not sampled,
        truncates=any(p.top_k > 0 or p.top_p < 1 or p.min_p > 0 for p in sampled),
        penalizes=any(
            p.presence_penalty or p.frequency_penalty or p.repetition_penalty != 1 for p in params
        ),
        edits=constrained or any(p.logit_bias or p.min_tokens for p in params),
        num_logprobs=(NUM_ALTERNATIVES if any(wanted) else 0) if wanted else None,
    )


def _padded(values: Sequence[int], num_rows: int, dtype: type) -> Any:
    padded: np.ndarray = np.zeros(num_rows, dtype)
    padded[: len(values)] = values
    return padded
