"""How long it takes until training goes: imports, and from the start of the process to the first step.

    ./pants run packages/experiments/benchmarks/startup.py -- --quick
    python -m benchmarks.startup          # in packages/experiments

Every sample is a process of its own, of which CPU seconds are what the operating system counted, from its
start to its end. The first step is `llama2_7b_tpu` as the cpu mesh rule shrinks it, by the `Trainer` and with
the checkpointer and writers that a run has; "cold" trains the tokenizer and encodes the text first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.first_step import TRAINING_IMPORTS
from benchmarks.measuring import Sample, environment, medians, save

PROGRAMS = {
    "python": "pass",
    "import trellax.config": "import trellax.config",
    "import jax": "import jax",
    "imports for training": f"import {TRAINING_IMPORTS}",
    "first step": "from benchmarks import first_step; first_step.main()",
    "first step, cold": "from benchmarks import first_step; first_step.main()",
}
TARGETS_CPU_S = {"import trellax.config": 0.1, "imports for training": 4.0, "first step": 10.0}


def main() -> None:
    args = _arguments()
    report = measure(list(PROGRAMS), 1 if args.quick else args.repeats)
    print_summary(report)
    if args.save:
        print("saved", save("startup", {"programs": report, "targets_cpu_s": TARGETS_CPU_S}))


def measure(names: list[str], repeats: int) -> dict[str, Any]:
    """Runs the programs in turns; returns samples and medians, stages too where a program tells."""
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as warm:
        for name in {"first step"} & set(names):
            run_program(name, warm)  # Fills the cache.
        for _ in range(repeats):
            for name in names:
                samples[name].append(run_program(name, warm))
    return {name: _summary(taken) for name, taken in samples.items()}


def run_program(name: str, cache: str) -> dict[str, Any]:
    """Returns the clocks of one process, and the stages that it printed."""
    with contextlib.ExitStack() as stack:
        if name.endswith("cold"):
            cache = stack.enter_context(tempfile.TemporaryDirectory())
        output = stack.enter_context(tempfile.TemporaryFile("w+"))
        start = time.perf_counter()
        # No Popen.communicate: wait4 also tells what the process used.
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAMS[name]],
            env=environment(TRELLAX_CACHE_DIR=cache),
            stdout=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{name!r} ended with {process.returncode}.")
        output.seek(0)
        clocks = {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime}
        return clocks | {"stages": dict(_stages(output))}


def _stages(output: Any) -> Iterator[tuple[str, Sample]]:
    for line in output:
        if line.startswith("{"):
            stage = json.loads(line)
            yield stage.pop("stage"), stage


def _summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    stages = {
        stage: medians([s["stages"][stage] for s in samples]) for stage in samples[0]["stages"]
    }
    clocks = [{clock: s[clock] for clock in ("wall_s", "cpu_s")} for s in samples]
    return {"median": medians(clocks), "stage_medians": stages, "samples": samples}


def print_summary(report: dict[str, Any]) -> None:
    for name, entry in report.items():
        target = TARGETS_CPU_S.get(name)
        limit = f"   (target {target} s CPU)" if target else ""
        print(f"{name:24s}{_text(entry['median'])}{limit}")
        for stage, clocks in entry["stage_medians"].items():
            print(f"    {stage:20s}{_text(clocks)}")


def _text(clocks: Sample) -> str:
    return f"{clocks['cpu_s']:7.3f} s CPU {clocks['wall_s']:7.3f} s wall"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="samples of each program")
    parser.add_argument("--quick", action="store_true", help="one sample of each")
    parser.add_argument("--save", action="store_true", help="write results/startup.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
