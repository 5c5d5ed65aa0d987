"""The benchmark scripts run and report what they promise; how fast things are is not asserted here."""

from __future__ import annotations

import json
from pathlib import Path

import jax
from benchmarks import first_step, measuring, startup, train_step
from benchmarks.workloads import make_workload


def test_train_step_reports_speed_and_compile_time_of_every_program() -> None:
    workload = make_workload("tiny")
    programs = train_step.all_programs(workload)
    steps = train_step.interleaved_steps(workload, programs, 2)
    jax.clear_caches()
    compilations = {name: [train_step.compile_stages(name, "tiny")] for name in programs}
    summary = train_step.summarize(workload, steps, compilations)
    assert set(summary["step_median"]) == {*programs, "gemm"}
    assert summary["fastest_by_hand"] != "trellax"
    for ratio in ("speed_ratio", "compile_ratio"):
        assert set(summary[ratio]) == set(measuring.CLOCKS)
        assert all(value > 0 for value in summary[ratio].values())


def test_startup_reports_clocks_of_each_program() -> None:
    report = startup.measure(["python", "import trellax.config"], repeats=2)
    assert all(len(entry["samples"]) == 2 for entry in report.values())
    assert all(entry["median"]["cpu_s"] > 0 for entry in report.values())


def test_startup_reports_the_stages_up_to_the_first_step(tmp_path: Path) -> None:
    assert first_step.__name__ in startup.PROGRAMS["first step"].replace(" import ", ".")
    stages = startup.run_program("first step", str(tmp_path))["stages"]
    assert list(stages)[-3:] == ["init", "compile", "first step"]


def test_results_hold_samples_and_machine(tmp_path: Path) -> None:
    path = measuring.save("something", {"samples": [1.23456789]}, tmp_path)
    saved = json.loads(path.read_text())
    assert saved["samples"] == [1.2346]
    assert {"date", "cpu", "num_cpus", "load_average", "versions"} <= set(saved["machine"])
