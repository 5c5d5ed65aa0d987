"""`Draws`: what the device is told about how the rows of a step are sampled, and what it answers.

Axes: R rows that are drawn from, Q tokens of a decoding row, X packed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from trellax.inference.engine.tracked import Tracked
from trellax.inference.execution import MAX_BIASES, Drafts, Drawn, Pass, Runner
from trellax.inference.requests import SamplingParams, TokenLogprobs
from trellax.inference.sampling import (
    NUM_ALTERNATIVES,
    SamplerVariant,
    SamplingRows,
    unpack,
    unpack_verified,
    variant_for,
)
from trellax.inference.scheduling import DecodeRow, PrefillChunk

DRAW_VARIANTS = (
    SamplerVariant(greedy=True),
    SamplerVariant(),
    SamplerVariant(truncates=True),
    SamplerVariant(greedy=True, num_logprobs=NUM_ALTERNATIVES),
    SamplerVariant(truncates=True, edits=True),
    SamplerVariant(truncates=True, penalizes=True, edits=True, num_logprobs=NUM_ALTERNATIVES),
)
"""Ways of drawing that there are programs for, the cheapest first; the last can do all. Few, so that all are compiled up front."""

_NOBODY = SamplingParams(temperature=0.0)
Result = tuple[list[int], list[TokenLogprobs | None]]


@dataclasses.dataclass(frozen=True)
class DrawRow:
    """A row that a token is drawn from.

    Attributes:
        row: of the plan.
        index: which of the rows of the program.
        number: how many tokens of the output precede the one that is drawn.
        tracked: the request.
    """

    row: DecodeRow | PrefillChunk
    index: int
    number: int
    tracked: Tracked


class Draws:
    """Starts draws and reads their results."""

    def __init__(self, runner: Runner):
        self._runner = runner

    def start(self, step: Pass, rows: Sequence[DrawRow], drafts: Drafts | None) -> Drawn:
        """Starts drawing for these rows; the others of the step's shape get what nobody reads."""
        shape = step.shape
        num_rows = shape.decode_rows + shape.prefill_draws
        params: list[SamplingParams] = [_NOBODY] * num_rows
        seeds, numbers = [0] * num_rows, [0] * num_rows
        slots = np.full(num_rows, self._runner.sizes.num_slots, np.int32)
        for row in rows:
            params[row.index], seeds[row.index] = row.tracked.request.params, row.tracked.seed
            numbers[row.index], slots[row.index] = row.number, row.row.slot
        needed = self.needed(rows)
        variant = next(variant for variant in DRAW_VARIANTS if variant.covers(needed))
        if variant.penalizes:
            self._see(rows)
        edits = self._edits(rows, num_rows) if variant.edits else {}
        sampling = SamplingRows.of(params, seeds, numbers, num_rows)
        return self._runner.draw(step, slots, sampling, variant, drafts=drafts, **edits)

    def fetch(self, drawn: Drawn, rows: Sequence[DrawRow]) -> list[Result]:
        """Waits for the tokens; returns those of each row, with log-probabilities where they are asked for."""
        packed = drawn.fetch()
        wanted: list[int | None] = [None] * len(packed)
        for row in rows:
            wanted[row.index] = row.tracked.request.params.logprobs
        if drawn.tokens_per_row > 1:
            ids_of, known_of = unpack_verified(packed, drawn.variant, wanted)
            return [_of_row(ids_of[row.index], known_of[row.index]) for row in rows]
        tokens, logprobs = unpack(packed, drawn.variant, wanted)
        ids = tokens.tolist()
        return [([ids[row.index]], [logprobs[row.index]]) for row in rows]

    def needed(self, rows: Sequence[DrawRow]) -> SamplerVariant:
        """Returns what the program that draws for these rows must be able to do."""
        constrained = any(row.tracked.matcher is not None for row in rows)
        return variant_for([row.tracked.request.params for row in rows], constrained)

    def _see(self, rows: Sequence[DrawRow]) -> None:
        """Tells the device the tokens of sequences that are new to their slot, where penalties ask for them."""
        for row in rows:
            tracked = row.tracked
            if tracked.has_penalties and tracked.seen_slot != row.row.slot:
                self._runner.see(row.row.slot, tracked.request.prompt_ids, tracked.output_ids)
                tracked.seen_slot = row.row.slot

    def _edits(self, rows: Sequence[DrawRow], num_rows: int) -> dict[str, Any]:
        ids, values = self._runner.no_bias(num_rows)
        for row in rows:
            biases = row.tracked.biases(row.number)[:MAX_BIASES]
            if biases:
                ids[row.index, : len(biases)] = [token for token, _ in biases]
                values[row.index, : len(biases)] = [value for _, value in biases]
        allowed = self._runner.all_allowed(num_rows)
        for row in rows:
            if row.tracked.matcher is not None and row.tracked.finish_reason is None:
                row.tracked.matcher.fill_mask(allowed[row.index])
        return {"bias": (ids, values), "allowed": allowed}


def _of_row(ids: list[int], known: list[TokenLogprobs] | None) -> Result:
    return ids, [None] * len(ids) if known is None else list(known)
