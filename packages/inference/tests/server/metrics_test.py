"""`/metrics` and `/stats`: names that dashboards know, and numbers that add up."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.server.fakes import FakeEngine
from tests.server.serving import client_of
from trellax.inference.histogram import Histogram

HISTOGRAMS = {
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "iteration_tokens_total",
}
COUNTERS = {
    "prefix_cache_queries",
    "prefix_cache_hits",
    "num_preemptions",
    "compiles",
    "spec_decode_num_drafts",
    "spec_decode_num_draft_tokens",
    "spec_decode_num_accepted_tokens",
    "prompt_tokens",
    "generation_tokens",
    "request_success",
    "admission_rejections",
}
GAUGES = {"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"}
STREAM = {"prompt": "abc", "max_tokens": 5, "stream": True}


def after(engine: FakeEngine, *bodies: dict[str, Any]) -> dict[str, Any]:
    """Returns metric families by name, after completions that may fail."""

    async def run() -> str:
        async with client_of(engine) as client:
            for body in bodies:
                await client.post("/v1/completions", json=body)
            answer = await client.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            return answer.text

    families = text_string_to_metric_families(asyncio.run(run()))
    return {family.name.removeprefix("trellax:"): family for family in families}


def value(family: Any, suffix: str = "", **labels: str) -> float:
    (sample,) = (
        s for s in family.samples if s.name.endswith(suffix) and labels.items() <= s.labels.items()
    )
    return sample.value


def test_names_kinds_and_labels_are_those_that_dashboards_know() -> None:
    families = after(FakeEngine())
    kinds = {name: family.type for name, family in families.items()}
    assert kinds == (
        dict.fromkeys(HISTOGRAMS, "histogram")
        | dict.fromkeys(COUNTERS, "counter")
        | dict.fromkeys(GAUGES, "gauge")
    )
    for family in families.values():
        for sample in family.samples:
            assert sample.labels["model_name"] == "fake/model" and sample.labels["engine"] == "0"


def test_engine_and_server_figures_are_told() -> None:
    families = after(FakeEngine(), STREAM, STREAM | {"n": 2, "stream": False})
    assert value(families["kv_cache_usage_perc"]) == 0.25
    assert value(families["prefix_cache_hits"], "_total") == 10
    assert value(families["compiles"], "_total") == 7
    assert value(families["prompt_tokens"], "_total") == 3 * 4
    assert value(families["generation_tokens"], "_total") == 3 * 5
    assert value(families["request_success"], "_total", finished_reason="length") == 3
    assert value(families["time_to_first_token_seconds"], "_count") == 3
    assert value(families["inter_token_latency_seconds"], "_count") == 3 * 4
    assert value(families["request_time_per_output_token_seconds"], "_count") == 3
    assert value(families["e2e_request_latency_seconds"], "_count") == 3
    assert value(families["request_generation_tokens"], "_sum") == 15


@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_is_counted_as_an_error(stream: bool) -> None:
    engine = FakeEngine()
    engine.failure = RuntimeError("broken")
    families = after(engine, STREAM | {"stream": stream, "n": 2})
    assert value(families["request_success"], "_total", finished_reason="error") == 2
    assert value(families["e2e_request_latency_seconds"], "_count") == 2


def test_a_full_queue_is_counted_by_what_there_was_too_much_of() -> None:
    engine = FakeEngine()
    engine.queue_limit = 0
    families = after(engine, STREAM, STREAM)
    assert value(families["admission_rejections"], "_total", reason="requests") == 2
    assert all(sample.value == 0 for sample in families["request_success"].samples)


def test_scored_prompts_count_as_prompts_alone() -> None:
    families = after(FakeEngine(), {"prompt": [1, 2, 3], "max_tokens": 0, "echo": True})
    assert value(families["prompt_tokens"], "_total") == 3
    assert value(families["generation_tokens"], "_total") == 0


@given(st.lists(st.floats(0, 100)), st.sets(st.floats(0.1, 50), min_size=1))
def test_a_histogram_counts_every_value_in_one_bucket(
    values: list[float], bounds: set[float]
) -> None:
    histogram = Histogram(sorted(bounds))
    for item in values:
        histogram.observe(item)
    edges = [-1.0, *sorted(bounds), float("inf")]
    expected = [sum(low < v <= high for v in values) for low, high in itertools.pairwise(edges)]
    assert histogram.counts == expected
    assert histogram.sum == pytest.approx(sum(values))


def test_stats_are_what_the_page_shows() -> None:
    async def run() -> Any:
        async with client_of(FakeEngine()) as client:
            before = (await client.get("/stats")).json()
            await client.post("/v1/completions", json=STREAM)
            return before, (await client.get("/stats")).json()

    before, later = asyncio.run(run())
    assert before["median_time_to_first_token_seconds"] is None
    assert later["median_time_to_first_token_seconds"] > 0
    assert later["generation_tokens"] - before["generation_tokens"] == 5
    assert later["time"] > before["time"] and later["is_ready"] is True
