"""Metrics that come a step late, and the speed that is computed beside them."""

from __future__ import annotations

import time

import jax.numpy as jnp
import pytest

from trellax.runtime.trainer import Speedometer
from trellax.runtime.trainer.metrics import LateMetrics


def make_speedometer(peak_flops: float | None = None) -> Speedometer:
    return Speedometer(tokens_per_step=100, forward_flops_per_token=2.0, peak_flops=peak_flops)


def test_metrics_are_returned_when_the_next_ones_come() -> None:
    late = LateMetrics()
    assert late.push(1, {"loss": jnp.asarray(3.0)}) is None
    assert late.push(2, {"loss": jnp.asarray(2.0)}) == (1, {"loss": 3.0})
    assert late.flush() == (2, {"loss": 2.0})
    assert late.flush() is None


def test_values_of_layers_get_names_of_their_own() -> None:
    late = LateMetrics()
    late.push(1, {"load": jnp.asarray([0.25, 0.75])})
    assert late.flush() == (1, {"load/0": 0.25, "load/1": 0.75})


def test_mfu_is_three_forward_passes_over_the_peak() -> None:
    speed = make_speedometer(peak_flops=1000.0)
    time.sleep(0.05)
    speed.step_done()
    values = speed.read()
    assert values["tokens_per_second"] * values["step_seconds"] == pytest.approx(100)
    assert values["mfu"] == pytest.approx(3 * 2.0 * values["tokens_per_second"] / 1000.0)


def test_without_a_known_peak_there_is_no_mfu() -> None:
    speed = make_speedometer()
    speed.step_done()
    assert "mfu" not in speed.read()


def test_a_flushed_step_repeats_the_reading_that_its_time_went_into() -> None:
    speed = make_speedometer()
    time.sleep(0.05)
    speed.step_done()
    before = speed.read()
    speed.step_done()
    assert speed.read(flushed=True) == before


def test_nothing_is_read_where_no_step_was_done() -> None:
    speed = make_speedometer()
    assert speed.read() == {}
    assert speed.read(flushed=True) == {}
