"""Times functions against each other: interleaved rounds, medians, raw samples to JSON.

    report = side_by_side({"a": (fn_a, args), "b": (fn_b, args)}, rounds=15)

Interleaving makes a disturbance of the machine hit every candidate alike. CPU seconds count all threads of the
process, so they stay comparable on a shared machine, where wall time does not.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jaxlib

Candidates = Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]]


def side_by_side(candidates: Candidates, *, rounds: int = 15) -> dict[str, Any]:
    """Compiles each function, then runs all of them once a round.

    Returns:
        For each candidate: compile CPU seconds, temporary bytes, medians in seconds, raw samples.
    """
    report: dict[str, Any] = {}
    compiled = {}
    for name, (fn, args) in candidates.items():
        start = time.process_time()
        compiled[name] = jax.jit(fn).lower(*args).compile()
        seconds = time.process_time() - start
        analysis = compiled[name].memory_analysis()
        memory = analysis.temp_size_in_bytes if analysis else 0
        report[name] = {"compile_cpu_s": seconds, "temp_bytes": memory, "samples": []}
        jax.block_until_ready(compiled[name](*args))
    for _ in range(rounds):
        for name, (_, args) in candidates.items():
            report[name]["samples"].append(_sample(compiled[name], args))
    for entry in report.values():
        for index, clock in enumerate(("wall_s", "cpu_s")):
            entry[f"median_{clock}"] = statistics.median(s[index] for s in entry["samples"])
    return report


def _sample(fn: Callable[..., Any], args: tuple[Any, ...]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(fn(*args))
    return time.perf_counter() - wall, time.process_time() - cpu


def print_report(title: str, report: dict[str, Any]) -> None:
    """One line a candidate: medians in milliseconds, temporary memory, compile time."""
    print(title)
    for name, entry in report.items():
        print(
            f"  {name:24s} wall {1e3 * entry['median_wall_s']:9.2f} ms   cpu "
            f"{1e3 * entry['median_cpu_s']:9.2f} ms   temp {entry['temp_bytes'] / 2**20:8.1f} MiB"
            f"   compile {entry['compile_cpu_s']:5.2f} CPU s"
        )


def save(name: str, reports: dict[str, Any]) -> None:
    """Writes reports with versions and machine to benchmarks/results/NAME.json."""
    path = pathlib.Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    about = {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "num_cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "devices": [device.device_kind for device in jax.devices()],
        "samples": "[wall seconds, CPU seconds] a round",
    }
    path.write_text(json.dumps({"about": about, "reports": reports}, indent=1) + "\n")
