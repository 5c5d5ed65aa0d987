"""The train step against the same model written by hand in plain JAX: speed, and time to compile.

    ./pants run packages/experiments/benchmarks/train_step.py -- --quick
    python -m benchmarks.train_step --sizes=rehearsal          # in packages/experiments

Steps of all programs are interleaved in one process. Compilations run in processes of their own, one after
the other, so that none profits from what another has traced. The hand-written program is measured with and
without rematerialized layers, and compared at its best. The limit is the FLOPs a second of a large float32
matrix product, interleaved with the steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
from benchmarks.measuring import (
    Sample,
    Stopwatch,
    environment,
    medians,
    ratios,
    save,
    summed,
)
from benchmarks.workloads import (
    SIZES,
    Program,
    Workload,
    hand_written_program,
    make_workload,
    trellax_program,
)

STAGES = ("trace", "lower", "compile")
SPEED_TARGET = 0.97
COMPILE_TARGET = 1.25
GEMM_SIZE = 2048


def main() -> None:
    args = _arguments()
    if args.compile_only:
        print(json.dumps(compile_stages(args.compile_only, *args.sizes)))
        return
    report = {size: measure(size, args.steps, args.compilations) for size in args.sizes}
    for size, entry in report.items():
        print_summary(size, entry)
    if args.save:
        print("saved", save("train_step", {"sizes": report}))


def measure(size: str, num_steps: int, num_compilations: int) -> dict[str, Any]:
    """Returns samples, medians and ratios of one size."""
    workload = make_workload(size)
    programs = all_programs(workload)
    compilations = interleaved_compilations(list(programs), size, num_compilations)
    steps = interleaved_steps(workload, programs, num_steps)
    return {
        "tokens_per_step": workload.num_tokens,
        "model_flops_per_step": workload.model_flops,
        "summary": summarize(workload, steps, compilations),
        "step_samples": steps,
        "compile_samples": compilations,
    }


def all_programs(workload: Workload) -> dict[str, Program]:
    """Returns the candidates by name; Trellax is the first."""
    by_hand = [hand_written_program(workload, remat=remat) for remat in (False, True)]
    return {p.name: p for p in (trellax_program(workload), *by_hand)}


# ---- steps ----------------------------------------------------------------------------------------


def interleaved_steps(
    workload: Workload, programs: dict[str, Program], num_steps: int
) -> dict[str, list[Sample]]:
    """Times one step of each program, and a matrix product, in turns; the first turn is not kept."""
    batch = jax.device_put(workload.batch)
    compiled = {name: p.trace(batch).lower().compile() for name, p in programs.items()}
    states = {name: p.init() for name, p in programs.items()}
    gemm, x = jax.jit(lambda x: x @ x), jnp.ones((GEMM_SIZE, GEMM_SIZE), jnp.float32)
    samples: dict[str, list[Sample]] = {name: [] for name in (*programs, "gemm")}
    for turn in range(num_steps + 1):
        for name, program in programs.items():
            stopwatch = Stopwatch()
            states[name], _ = program.step(compiled[name], states[name], batch)
            jax.block_until_ready(states[name])
            samples[name] += [stopwatch.lap()] * (turn > 0)
        stopwatch = Stopwatch()
        jax.block_until_ready(gemm(x))
        samples["gemm"] += [stopwatch.lap()] * (turn > 0)
    return samples


# ---- compilations ---------------------------------------------------------------------------------


def compile_stages(program_name: str, size: str) -> dict[str, Sample]:
    """Traces, lowers and compiles one program, in a process where nothing was traced before."""
    workload = make_workload(size)
    program = all_programs(workload)[program_name]
    batch = jax.device_put(workload.batch)
    stopwatch = Stopwatch()
    traced = program.trace(batch)
    trace = stopwatch.lap()
    lowered = traced.lower()
    lower = stopwatch.lap()
    lowered.compile()
    return {"trace": trace, "lower": lower, "compile": stopwatch.lap()}


def interleaved_compilations(
    names: list[str], size: str, repeats: int
) -> dict[str, list[dict[str, Sample]]]:
    """Compiles each program in a new process, in turns."""
    samples: dict[str, list[dict[str, Sample]]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            command = [sys.executable, "-m", "benchmarks.train_step", f"--compile-only={name}"]
            done = subprocess.run(
                [*command, f"--sizes={size}"],
                env=environment(),
                capture_output=True,
                text=True,
                check=True,
            )
            samples[name].append(json.loads(done.stdout.splitlines()[-1]))
    return samples


# ---- summary --------------------------------------------------------------------------------------


def summarize(workload: Workload, steps: Any, compilations: Any) -> dict[str, Any]:
    """Returns medians, and the ratios that the targets are about."""
    step = {name: medians(samples) for name, samples in steps.items()}
    stages = {
        name: {stage: medians([s[stage] for s in samples]) for stage in STAGES}
        for name, samples in compilations.items()
    }
    totals = {
        name: medians([summed(list(s.values())) for s in samples])
        for name, samples in compilations.items()
    }
    by_hand = [name for name in compilations if name != "trellax"]
    fastest = min(by_hand, key=lambda name: step[name]["cpu_s"])
    peak = ratios(dict.fromkeys(step["gemm"], 2.0 * GEMM_SIZE**3), step["gemm"])
    achieved = {
        name: ratios(dict.fromkeys(step[name], workload.model_flops), step[name])
        for name in compilations
    }
    return {
        "fastest_by_hand": fastest,
        "speed_ratio": ratios(step[fastest], step["trellax"]),
        "compile_ratio": ratios(totals["trellax"], totals[fastest]),
        "compile_ratio_to_each": {
            name: ratios(totals["trellax"], totals[name]) for name in by_hand
        },
        "step_median": step,
        "compile_median": totals,
        "compile_stage_median": stages,
        "gemm_flops_per_second": peak,
        "model_flops_per_second": achieved,
        "share_of_gemm": {name: ratios(flops, peak) for name, flops in achieved.items()},
    }


def print_summary(size: str, entry: dict[str, Any]) -> None:
    summary = entry["summary"]
    print(f"{size}: {entry['tokens_per_step']} tokens a step")
    for name, total in summary["compile_median"].items():
        step, stages = summary["step_median"][name], summary["compile_stage_median"][name]
        parts = ", ".join(f"{stage} {stages[stage]['cpu_s']:.2f}" for stage in STAGES)
        print(
            f"  {name:20s} step {step['wall_s']:7.3f} s wall {step['cpu_s']:7.3f} s CPU   "
            f"{100 * summary['share_of_gemm'][name]['cpu_s']:3.0f} % of matmul peak   "
            f"compile {total['wall_s']:6.2f} s wall {total['cpu_s']:5.2f} s CPU ({parts})"
        )
    speed, compiling = summary["speed_ratio"], summary["compile_ratio"]
    print(
        f"  against {summary['fastest_by_hand']}: tokens/s {speed['wall_s']:.3f} by wall, "
        f"{speed['cpu_s']:.3f} by CPU (target {SPEED_TARGET}); compile time "
        f"{compiling['wall_s']:.3f}, {compiling['cpu_s']:.3f} (target {COMPILE_TARGET})"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = lambda text: text.split(",")
    parser.add_argument("--sizes", type=names, help=f"of {', '.join(SIZES)}; comma-separated")
    parser.add_argument("--steps", type=int, default=15, help="samples of each program's step")
    parser.add_argument("--compilations", type=int, default=5, help="samples of each compilation")
    parser.add_argument(
        "--quick", action="store_true", help="the tiny size, two samples, not saved"
    )
    parser.add_argument("--save", action="store_true", help="write results/train_step.json")
    parser.add_argument("--compile-only", metavar="PROGRAM", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.steps, args.compilations = 2, 1
    args.sizes = args.sizes or (["tiny"] if args.quick else ["rehearsal", "llama_20m"])
    return args


if __name__ == "__main__":
    main()
