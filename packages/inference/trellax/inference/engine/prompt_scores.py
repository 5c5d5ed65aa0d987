"""`PromptScores`: log-probabilities of the tokens of prompts, a chunk at a time.

Logits at a position say how likely the token after it is; so a prompt's first token has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from trellax.inference.engine.tracked import Tracked
from trellax.inference.execution import Pass, Runner, tile_starts
from trellax.inference.sampling import NUM_ALTERNATIVES, SamplerVariant, unpack
from trellax.inference.scheduling import PrefillChunk, StepPlan


@dataclasses.dataclass
class PromptScores:
    """Scores of a step that will be there."""

    packed: jax.Array
    num_top: int
    parts: list[tuple[Tracked, PrefillChunk, int]]

    @classmethod
    def started(
        cls,
        runner: Runner,
        plan: StepPlan,
        step: Pass,
        scored: Sequence[bool],
        tracked: Mapping[str, Tracked],
    ) -> PromptScores:
        """Starts scoring the chunks of a plan that `scored` says."""
        shape = step.shape
        next_ids = np.zeros(shape.tiles * shape.tile_length, np.int32)
        parts, num_top = [], 0
        starts = tile_starts(plan.prefill, shape.tile_length)
        for chunk, start, wanted in zip(plan.prefill, starts, scored, strict=True):
            if not wanted:
                continue
            request = tracked[chunk.request_id].request
            following = request.prompt_ids[chunk.start + 1 : chunk.end + 1]
            next_ids[start : start + len(following)] = following
            parts.append((tracked[chunk.request_id], chunk, start))
            num_top = max(num_top, request.params.prompt_logprobs or 0)
        num_top = NUM_ALTERNATIVES if num_top else 0
        return cls(runner.score(step, next_ids, num_top), num_top, parts)

    def fetch(self) -> None:
        """Waits for the scores and gives them to their requests."""
        packed = np.asarray(self.packed)
        variant = SamplerVariant(num_logprobs=self.num_top)
        for tracked, chunk, start in self.parts:
            scores = tracked.prompt_logprobs
            assert scores is not None
            # Positions that a pre-empted request computes again are told already.
            skipped = len(scores) - 1 - chunk.start
            last = min(chunk.end, len(tracked.request.prompt_ids) - 1)
            rows = packed[start + skipped : start + last - chunk.start]
            wanted = [tracked.request.params.prompt_logprobs] * len(rows)
            scores.extend(unpack(rows, variant, wanted)[1])
