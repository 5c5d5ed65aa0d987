"""Metrics on their way from the device to the log: fetched a step late, with speed added.

MFU is model FLOPs utilization (arXiv:2204.02311, appendix B): `3 * forward FLOPs of a token * tokens/s`
over the hardware's dense peak in the compute type. The forward FLOPs are 2 per multiply-add of every
matmul, attention counted in full (not halved for the causal mask); recomputation is not counted.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

TRAIN_FLOPS_PER_FORWARD_FLOP = 3.0
"""A backward pass costs two forward passes: gradients of the inputs and of the weights."""


class LateMetrics:
    """Holds one step's metrics back, so that fetching them never waits for the running step."""

    def __init__(self) -> None:
        self._pending: tuple[int, Any] | None = None

    def push(self, step: int, metrics: Any) -> tuple[int, dict[str, float]] | None:
        """Takes a step's device metrics, and returns the previous step's as floats."""
        previous, self._pending = self._pending, (step, metrics)
        return _fetched(previous)

    def flush(self) -> tuple[int, dict[str, float]] | None:
        """Returns what is held back, waiting for it."""
        previous, self._pending = self._pending, None
        return _fetched(previous)


class Speedometer:
    """Turns step completions into seconds a step, tokens a second and MFU."""

    def __init__(
        self, *, tokens_per_step: int, forward_flops_per_token: float, peak_flops: float | None
    ):
        """
        Args:
            tokens_per_step: positions of a global batch, padding included.
            forward_flops_per_token: see the module docstring.
            peak_flops: dense peak of all devices together, FLOP/s; None if it is not known.
        """
        self._tokens = tokens_per_step
        self._flops = TRAIN_FLOPS_PER_FORWARD_FLOP * forward_flops_per_token
        self._peak = peak_flops
        self._last = time.perf_counter()
        self._steps = 0
        self._reading: dict[str, float] = {}

    def restart(self) -> None:
        """Forgets the time since the last step: something else than training took it."""
        self._last = time.perf_counter()
        self._steps = 0

    def step_done(self) -> None:
        """Counts a completed step."""
        self._steps += 1

    def read(self, *, flushed: bool = False) -> dict[str, float]:
        """Returns the speed since the last reading ({} if no step was completed).

        Args:
            flushed: whether the last step's metrics were not fetched a step late. Its time may then
                have passed before the last reading, so a single step repeats that reading.
        """
        seconds, steps = time.perf_counter() - self._last, self._steps
        self.restart()
        if not steps or (flushed and steps == 1 and self._reading):
            return self._reading if steps else {}
        tokens_per_second = self._tokens * steps / seconds
        speed = {"step_seconds": seconds / steps, "tokens_per_second": tokens_per_second}
        speed["model_flops_per_second"] = tokens_per_second * self._flops
        if self._peak:
            speed["mfu"] = speed["model_flops_per_second"] / self._peak
        self._reading = speed
        return speed


def _fetched(pending: tuple[int, Any] | None) -> tuple[int, dict[str, float]] | None:
    if pending is None:
        return None
    step, metrics = pending
    values: dict[str, float] = {}
    for name, value in jax.device_get(metrics).items():
        if np.ndim(value) == 0:
            values[name] = float(value)
        else:  # One value a layer of a stack.
            values |= {f"{name}/{i}": float(v) for i, v in enumerate(np.ravel(value))}
    return step, values
