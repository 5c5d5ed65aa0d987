"""Clocks, interleaving and result files of the benchmarks.

    stopwatch = Stopwatch(); work(); seconds = stopwatch.lap()    # {"wall_s": ..., "cpu_s": ...}
    save("train_step", report)

CPU seconds are user and system time of all threads: on a machine that does other work as well they stay
comparable, where wall time does not. Ratios are of medians of interleaved samples.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

CLOCKS = ("wall_s", "cpu_s")
RESULTS = pathlib.Path(__file__).parent / "results"
Sample = dict[str, float]


class Stopwatch:
    """Reads both clocks since it was made, or since the last lap."""

    def __init__(self) -> None:
        self._last = self._read()

    def lap(self) -> Sample:
        now, last = self._read(), self._last
        self._last = now
        return {clock: b - a for clock, a, b in zip(CLOCKS, last, now, strict=True)}

    @staticmethod
    def _read() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def medians(samples: Sequence[Sample]) -> Sample:
    """Returns the median of each clock."""
    return {clock: statistics.median(s[clock] for s in samples) for clock in samples[0]}


def summed(samples: Sequence[Sample]) -> Sample:
    """Returns the sum of each clock."""
    return {clock: sum(s[clock] for s in samples) for clock in samples[0]}


def ratios(numerator: Sample, denominator: Sample) -> Sample:
    """Returns the quotient of each clock."""
    return {clock: numerator[clock] / denominator[clock] for clock in numerator}


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of a process that imports what this one can, on the CPU."""
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", **more}


def machine() -> dict[str, Any]:
    """Returns what the figures depend on: hardware, its load, versions, the date."""
    names = ("jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "grain")
    return {
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "cpu": _cpu_model(),
        "num_cpus": os.cpu_count(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def save(name: str, report: dict[str, Any], folder: pathlib.Path = RESULTS) -> pathlib.Path:
    """Writes a report, with the machine as it is now, to `folder/NAME.json`."""
    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded({"machine": machine(), **report}), indent=1) + "\n")
    return path


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _cpu_model() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if "model name" in line), "unknown")
