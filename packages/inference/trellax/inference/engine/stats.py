"""What an engine counts: gauges of now, counters since the start."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import numpy as np

from trellax.inference.engine.tracked import Tracked
from trellax.inference.execution import Drafts
from trellax.inference.histogram import QUEUE_S, TOKENS, Histogram
from trellax.inference.scheduling import StepPlan


@dataclasses.dataclass(frozen=True)
class EngineStats:
    """Attributes as `trellax.inference.server` explains them."""

    num_running: int
    num_waiting: int
    page_usage: float
    prefix_cache_queries: int
    prefix_cache_hits: int
    num_preemptions: int
    num_compiles: int
    num_drafted_rows: int
    num_drafts: int
    num_accepted_drafts: int
    queue_time_s: Histogram
    prefill_time_s: Histogram
    step_tokens: Histogram


class CoreStats:
    """Counters and histograms of the engine's loop."""

    def __init__(self) -> None:
        self.queue_time_s = Histogram(QUEUE_S)
        self.prefill_time_s = Histogram(QUEUE_S)
        self.step_tokens = Histogram(TOKENS)
        self.num_steps = self.num_output_tokens = 0
        self.num_drafted_rows = self.num_drafts = self.num_accepted_drafts = 0

    def planned(self, plan: StepPlan, tracked: Mapping[str, Tracked]) -> None:
        """Counts a step."""
        if plan.is_empty:
            return
        self.num_steps += 1
        self.step_tokens.observe(plan.num_tokens)
        now = time.monotonic()
        for chunk in plan.prefill:
            one = tracked[chunk.request_id]
            if one.started_at is None:
                one.started_at = now
                self.queue_time_s.observe(now - one.arrived_at)

    def drafted(self, drafts: Drafts) -> None:
        """Counts what is proposed for a step: rows that have drafts, and these."""
        self.num_drafted_rows += int(np.count_nonzero(drafts.counts_D))
        self.num_drafts += drafts.num_tokens

    def drew(self, tracked: Tracked, num_tokens: int) -> None:
        """Counts tokens of a request."""
        self.num_output_tokens += num_tokens
        self.num_accepted_drafts += max(num_tokens - 1, 0)
        if len(tracked.output_ids) == num_tokens and tracked.started_at is not None:
            self.prefill_time_s.observe(time.monotonic() - tracked.started_at)
