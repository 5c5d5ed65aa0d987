"""`Sample`: one sequence of an answer, as its pieces arrive.

sample = Sample(0, prompt, start_s=time.perf_counter())
sample.add(output, now_s=time.perf_counter(), metrics=metrics)
"""

from __future__ import annotations

from trellax.inference.requests import Output
from trellax.inference.server.metrics import Metrics
from trellax.inference.server.prompts import Prompt


class Sample:
    """What is known of one sequence.

    Attributes:
        index: of the choice in the answer.
        prompt: what it continues.
        num_tokens: generated so far.
        num_cached_tokens: of the prompt, that were in the cache.
        finish_reason: why it ended, None while it goes on.
    """

    __slots__ = (
        "_first_s",
        "_last_s",
        "_start_s",
        "finish_reason",
        "index",
        "num_cached_tokens",
        "num_tokens",
        "prompt",
    )

    def __init__(self, index: int, prompt: Prompt, *, start_s: float):
        self.index = index
        self.prompt = prompt
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self.finish_reason: str | None = None
        self._start_s = start_s
        self._first_s: float | None = None
        self._last_s = start_s

    def add(self, output: Output, *, now_s: float, metrics: Metrics) -> None:
        """Counts a piece."""
        count = len(output.token_ids)
        if count:
            self.num_tokens += count
            metrics.generation_tokens += count
            if self._first_s is None:
                self._begin(now_s, metrics)
            else:
                metrics.between_tokens_s.observe(now_s - self._last_s)
            self._last_s = now_s
        if output.num_cached_tokens:
            self.num_cached_tokens = output.num_cached_tokens
        if output.finish_reason is not None:
            self.end(output.finish_reason, now_s=now_s, metrics=metrics)

    def end(self, reason: str, *, now_s: float, metrics: Metrics) -> None:
        """Counts the end, once."""
        if self.finish_reason is not None:
            return
        self.finish_reason = reason
        metrics.finished[reason] += 1
        metrics.request_s.observe(now_s - self._start_s)
        metrics.num_generation_tokens.observe(self.num_tokens)
        if self._first_s is None:
            if reason in ("stop", "length"):  # The prompt was scored, and that was all.
                metrics.prompt_tokens += len(self.prompt.ids)
            return
        decode_s = self._last_s - self._first_s
        metrics.decode_s.observe(decode_s)
        if self.num_tokens > 1:
            metrics.per_output_token_s.observe(decode_s / (self.num_tokens - 1))

    def _begin(self, now_s: float, metrics: Metrics) -> None:
        self._first_s = now_s
        metrics.first_token_s.observe(now_s - self._start_s)
        metrics.recent_first_token_s.append(now_s - self._start_s)
        metrics.prompt_tokens += len(self.prompt.ids)
        metrics.num_prompt_tokens.observe(len(self.prompt.ids))
