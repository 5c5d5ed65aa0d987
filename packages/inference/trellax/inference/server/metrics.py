"""`EngineMetrics` and `Metrics`: what an engine, and a server of one, have counted, as Prometheus reads it.

    metrics = Metrics(engine)
    metrics.exposition()  # b"# HELP trellax:num_requests_running ..."

Names, units and labels are vLLM's, with `trellax:` in front, so that dashboards are ported by replacing
the prefix. All is counted on the event loop, so nothing is locked, and read when it is asked for.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from trellax.inference.histogram import (
    FIRST_TOKEN_S,
    REQUEST_S,
    TOKEN_S,
    TOKENS,
    Histogram,
)
from trellax.inference.server.interface import Engine, HistogramSnapshot

_PREFIX = "trellax:"
_LABELS = ("model_name", "engine")
_ENGINE = "0"
"""vLLM numbers engines that share an address; there is one here."""


class EngineMetrics(Collector):
    """What an engine tells of itself, whoever sends it requests."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def exposition(self) -> bytes:
        """Returns the metrics as text that Prometheus reads."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Returns nothing: names are not checked against other collectors, of which there are none."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yields all metrics as they are now."""
        stats = self._engine.stats()
        for name, value, about in (
            ("num_requests_running", stats.num_running, "Sequences that compute."),
            ("num_requests_waiting", stats.num_waiting, "Sequences that wait for room."),
            ("kv_cache_usage_perc", stats.page_usage, "Used share of the cache's pages, 0 to 1."),
        ):
            gauge = GaugeMetricFamily(_PREFIX + name, about, labels=_LABELS)
            gauge.add_metric(self._labels(), value)
            yield gauge
        for name, value, about in (
            ("prefix_cache_queries", stats.prefix_cache_queries, "Prompts' tokens looked up."),
            ("prefix_cache_hits", stats.prefix_cache_hits, "Prompts' tokens found in the cache."),
            ("num_preemptions", stats.num_preemptions, "Sequences that lost their pages."),
            ("compiles", stats.num_compiles, "Programs compiled."),
            ("spec_decode_num_drafts", stats.num_drafted_rows, "Times that drafts were made."),
            ("spec_decode_num_draft_tokens", stats.num_drafts, "Tokens of drafts."),
            ("spec_decode_num_accepted_tokens", stats.num_accepted_drafts, "Those accepted."),
        ):
            yield self._counter(name, value, about)
        for name, values, about in (
            ("request_queue_time_seconds", stats.queue_time_s, "Until the first step."),
            ("request_prefill_time_seconds", stats.prefill_time_s, "From there to a token."),
            ("iteration_tokens_total", stats.step_tokens, "Tokens computed in a step."),
        ):
            yield self._histogram(name, values, about)

    def _counter(self, name: str, value: float, about: str) -> Metric:
        counter = CounterMetricFamily(_PREFIX + name, about, labels=_LABELS)
        counter.add_metric(self._labels(), value)
        return counter

    def _histogram(self, name: str, values: HistogramSnapshot, about: str) -> Metric:
        family = HistogramMetricFamily(_PREFIX + name, about, labels=_LABELS)
        total, buckets = 0, []
        for bound, count in zip((*values.bounds, float("inf")), values.counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
        family.add_metric(self._labels(), buckets, values.sum)
        return family

    def _labels(self) -> tuple[str, str]:
        return self._engine.model.id, _ENGINE


class Metrics(EngineMetrics):
    """The engine's, and counters and histograms of a server's requests.

    Attributes:
        prompt_tokens: of requests that have got their first token.
        generation_tokens: sent.
        finished: requests by finish reason; "abort" counts clients that left.
        rejections: requests that were not admitted, by reason.
        first_token_s, between_tokens_s, per_output_token_s, request_s, decode_s: histograms, in seconds.
        num_prompt_tokens, num_generation_tokens: histograms of requests' sizes.
        recent_first_token_s: of the last requests.
    """

    def __init__(self, engine: Engine):
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished = dict.fromkeys(("stop", "length", "abort", "error"), 0)
        self.rejections: collections.Counter[str] = collections.Counter()
        self.first_token_s = Histogram(FIRST_TOKEN_S)
        self.between_tokens_s = Histogram(TOKEN_S)
        self.per_output_token_s = Histogram(TOKEN_S)
        self.request_s = Histogram(REQUEST_S)
        self.decode_s = Histogram(REQUEST_S)
        self.num_prompt_tokens = Histogram(TOKENS)
        self.num_generation_tokens = Histogram(TOKENS)
        self.recent_first_token_s: collections.deque[float] = collections.deque(maxlen=100)
        super().__init__(engine)

    def collect(self) -> Iterator[Metric]:
        """Yields all metrics as they are now."""
        yield from super().collect()
        yield self._counter("prompt_tokens", self.prompt_tokens, "Prompts' tokens processed.")
        yield self._counter("generation_tokens", self.generation_tokens, "Tokens generated.")
        yield self._by("request_success", "finished_reason", self.finished, "Finished requests.")
        about = "Requests that were not admitted."
        yield self._by("admission_rejections", "reason", self.rejections, about)
        for name, values, about in (
            ("time_to_first_token_seconds", self.first_token_s, "Until the first token."),
            ("inter_token_latency_seconds", self.between_tokens_s, "From token to token."),
            (
                "request_time_per_output_token_seconds",
                self.per_output_token_s,
                "Mean time of a request's tokens after the first.",
            ),
            ("e2e_request_latency_seconds", self.request_s, "Until the last token."),
            ("request_decode_time_seconds", self.decode_s, "From the first token to the last."),
            ("request_prompt_tokens", self.num_prompt_tokens, "Tokens of a prompt."),
            ("request_generation_tokens", self.num_generation_tokens, "Tokens of a completion."),
        ):
            yield self._histogram(name, values, about)

    def _by(self, name: str, label: str, counts: dict[str, int], about: str) -> Metric:
        family = CounterMetricFamily(_PREFIX + name, about, labels=(*_LABELS, label))
        for value, count in counts.items():
            family.add_metric((*self._labels(), value), count)
        return family
