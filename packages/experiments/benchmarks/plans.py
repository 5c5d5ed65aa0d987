"""Plans of published runs, made one after another in processes of their own: do they fit, and is the bound below what was measured?

    ./pants run packages/experiments/benchmarks/plans.py -- [--only=SUBSTRING] [--python=PYTHON]

Writes results/plans.json, where plans made before stay, and docs/plans.md. GPU plans need JAX's CUDA plugin: --python names an
interpreter of an environment that has it, and this repository's packages on its path.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from trellax.runtime import write_atomically

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "plans.json"
PAGE = HERE.parents[2] / "docs" / "plans.md"
GIB = 2**30
TABLE_BATCH = ("input.global_batch_size=1024", "input.sequence_length=4096")
PAPER = "AXLearn (arXiv:2507.05411), table 3"


@dataclasses.dataclass(frozen=True)
class Run:
    """What to plan, and the step time that was published for it.

    Attributes:
        experiment: its name.
        hardware: what to plan it for.
        overrides: of the config: the published batch.
        seconds: the shortest published step; None where none is.
        source: of it.
    """

    experiment: str
    hardware: str
    overrides: tuple[str, ...] = TABLE_BATCH
    seconds: float | None = None
    source: str = ""

    @property
    def key(self) -> str:
        return " ".join((self.experiment, self.hardware, *self.overrides))


_16M_TOKENS = (
    "input.global_batch_size=512",
    "input.sequence_length=32768",
    "accumulation_steps=1",
)
RUNS = (
    Run("llama2_7b_tpu", "tpu-v5p-512", seconds=2.5, source=PAPER),
    Run("llama2_7b_tpu", "tpu-v5e-256"),
    Run("llama2_70b_tpu", "tpu-v5p-1024", seconds=11.6, source=PAPER),
    Run("qwen3_30b_a3b", "tpu-v5p-512"),
    Run("mixtral_8x7b", "tpu-v5p-512"),
    Run("llama3_1_405b", "tpu-v5p-1024", (*TABLE_BATCH, "accumulation_steps=1")),
    Run("llama2_7b_tpu", "gpu-h100-256", seconds=1.4, source=PAPER),
    Run("llama2_7b_tpu", "gpu-h100-512"),
    Run("llama2_70b_tpu", "gpu-h100-256"),
    Run("llama2_70b_tpu", "gpu-h100-512", seconds=7.8, source=f"{PAPER}: Megatron-LM"),
    Run("qwen3_30b_a3b", "tpu-v5p-1024", _16M_TOKENS, 12.86, PAPER),
    Run("qwen3_30b_a3b", "gpu-b200-512", _16M_TOKENS, 4.1, f"{PAPER}: Megatron-LM"),
    Run("llama2_7b_tpu", "trn2-1024", seconds=1.2, source=PAPER),
    Run("llama2_70b_tpu", "trn2-1024", seconds=11.2, source=PAPER),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="plan only what contains this")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for run in RUNS:
        if options.only not in run.key:
            continue
        results[run.key] = planned(run, options.python)
        write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
        print(row(run, results[run.key]), flush=True)
    write_atomically(PAGE, page(results))


def planned(run: Run, python: str) -> dict[str, Any]:
    """Returns the plan as `trellax plan --json` tells it."""
    code = "from trellax.experiments.cli import main; main()"
    command = [python, "-c", code, "plan", run.experiment, f"--hardware={run.hardware}", "--json"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if python == sys.executable:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [*command, *run.overrides], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{run.key}: exit code {done.returncode}.")
    (plan,) = json.loads(done.stdout)
    return dict(plan)


def page(results: dict[str, Any]) -> str:
    """Returns docs/plans.md."""
    rows = [row(run, results[run.key]) for run in RUNS if run.key in results]
    return _HEAD + "\n".join(rows) + "\n" + _FOOT


def row(run: Run, plan: dict[str, Any]) -> str:
    """Returns a plan's line of the table."""
    memory, bound = plan["memory"], plan["bound"]
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1)
    fits = {True: "fits", False: "**does not fit**", None: "not compiled"}[memory["fits"]]
    published = "" if run.seconds is None else f"{run.seconds:g} s"
    ratio = "" if run.seconds is None else f"{bound['seconds'] / run.seconds:.2f}"
    cells = [
        run.experiment,
        run.hardware,
        mesh,
        str(plan["accumulation_steps"]),
        f"{plan['rows']:,} x {plan['length']:,}",
        _gib(memory["inputs"]),
        _gib(memory["peak"]),
        _gib(memory["capacity"]),
        fits,
        f"{bound['seconds']:.2f} s ({bound['by']})",
        f"{100 * bound['mfu']:.0f} %",
        published,
        ratio,
        f"{plan['cost']['cpu_seconds']:.0f} s, {plan['cost']['resident_bytes'] / GIB:.1f} GiB",
    ]
    return "| " + " | ".join(cells) + " |"


def _gib(size: float | None) -> str:
    return "" if size is None else f"{size / GIB:.1f}"


_HEAD = """# Plans

What `trellax plan` says of published runs; nothing here ran on an accelerator. `packages/experiments/benchmarks/plans.py` writes
this page; all numbers are in `packages/experiments/benchmarks/results/plans.json`.

Memory is GiB of one device: state and batch, the compiler's peak, and what a program may use. The bound is the least time of a step
if everything overlapped and ran at its published peak; a published time that were below it would show a mistake in the bound.
MFU counts attention in full, as published figures do, while kernels skip what a causal mask hides, so it may exceed 100 % at
the bound. The last column is what making the plan took.

| experiment | hardware | mesh | parts | batch | state | peak | usable | | bound (by) | MFU at it | published | bound / published | plan |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |
"""
_FOOT = f"""
Published times: the shortest of the systems in {PAPER}.
Trainium has no public compiler: its programs are lowered and checked against the documented limits; their memory and collectives
are estimated, the working memory of a layer not included.
"""

if __name__ == "__main__":
    main()
