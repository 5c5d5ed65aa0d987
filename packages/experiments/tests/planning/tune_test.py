"""The search: candidates are allowed and fit, the best is a mesh rule that makes the plan anew."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.planning.tiny_plans import NAME, TINY, needs_libtpu, output_of, tiny_resolved
from trellax.config import SetModifier, apply_overrides
from trellax.experiments import get_experiment
from trellax.experiments.planning import Tuned, make_plan, planned_program, tune, tuned_text
from trellax.experiments.planning.candidates import CandidateSearch
from trellax.experiments.planning.remat import POLICIES
from trellax.parallel import MeshRule, apply_mesh_rule

HARDWARE = "trn2-16"
"""Without a compiler: plans take a second."""


@pytest.fixture(scope="module")
def search() -> CandidateSearch:
    resolved = tiny_resolved(HARDWARE)
    planned = planned_program(resolved.cfg, resolved.hardware)
    return CandidateSearch(planned, make_plan(resolved))


@pytest.fixture(scope="module")
def tuned() -> Tuned:
    return tune(tiny_resolved(HARDWARE), num_candidates=2)


def rule_in(code: str) -> MeshRule:
    """Returns the rule that printed Python makes."""
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    rule = namespace["config"]()
    assert isinstance(rule, MeshRule)
    return rule


def peak_by(rule: MeshRule) -> float | None:
    """Returns the peak of the tiny recipe's plan by a rule."""
    resolved = tiny_resolved(HARDWARE)
    cfg, _ = apply_mesh_rule(get_experiment(NAME), rule)
    apply_overrides(cfg, [word for word in TINY if "accumulation" not in word])
    return make_plan(dataclasses.replace(resolved, cfg=cfg)).memory.peak


def test_candidates_pass_the_checks_of_the_mesh_and_fit(search: CandidateSearch) -> None:
    resolved = tiny_resolved(HARDWARE)
    cfg = planned_program(resolved.cfg, resolved.hardware).cfg
    candidates = search.most_promising(1000)
    assert len(candidates) > 20 and search.num_compared >= len(candidates)
    for candidate in candidates:
        sizes = candidate.mesh_shape.total_sizes()
        cfg.clone(accumulation_steps=candidate.accumulation_steps).check_mesh(sizes)
        assert sizes["data"] * sizes["fsdp"] * sizes["model"] == 64 and sizes["model"] <= 8
        assert 0 < candidate.bytes <= 0.95 * resolved.hardware.usable_hbm_bytes_per_device
        assert (candidate.axis_rules is not None) == (sizes["model"] > 1)


def test_the_most_promising_come_first_and_differ(search: CandidateSearch) -> None:
    candidates = search.most_promising(8)
    times = [round(candidate.seconds, 4) for candidate in candidates]
    assert times == sorted(times)
    assert len({(str(c.mesh_shape), c.policy) for c in candidates}) == 8
    assert search.most_promising(3) == candidates[:3]


def test_candidates_that_need_more_than_there_is_are_left_out() -> None:
    resolved = tiny_resolved(HARDWARE, "model.**.hidden_dim=268435456")
    planned = planned_program(resolved.cfg, resolved.hardware)
    search = CandidateSearch(planned, make_plan(resolved))
    assert search.most_promising(3) == [] and search.num_compared > 20


def test_the_best_is_faster_than_the_experiments_own_rule(tuned: Tuned) -> None:
    assert tuned.best is not None and tuned.best.bound is not None and tuned.own.bound is not None
    assert tuned.best.bound.seconds < tuned.own.bound.seconds
    assert len(tuned.tried) == 2 and tuned.best in [plan for _, plan in tuned.tried]


def test_the_rule_makes_the_best_plan_anew_and_keeps_what_else_the_own_rule_changes(
    tuned: Tuned,
) -> None:
    assert tuned.rule is not None and tuned.best is not None
    assert tuned.rule.matches(HARDWARE) and not tuned.rule.matches("trn2-64")
    assert peak_by(tuned.rule) == tuned.best.memory.peak != tuned.own.memory.peak
    (kept,) = (m for m in tuned.rule.modifiers if isinstance(m, SetModifier.Config))
    assert kept.values == {"prng_implementation": "rbg"}


def test_the_table_has_a_line_for_every_plan(tuned: Tuned) -> None:
    lines = tuned_text(tuned).splitlines()
    assert lines[0] == f"{tuned.num_compared:,} candidates compared, 2 planned in full"
    assert lines[2].startswith("  the experiment's own rule ") and len(lines) == 5
    for line, (candidate, _) in zip(lines[3:], tuned.tried, strict=True):
        assert str(candidate.mesh_shape) in line and candidate.policy in {*POLICIES}
        assert candidate.policy in line


def test_what_is_printed_and_written_is_the_rule(tuned: Tuned, tmp_path: Path) -> None:
    file = tmp_path / "rule.py"
    command = ("tune", f"--hardware={HARDWARE}", "--candidates=2", f"--output={file}")
    code, text = output_of(*command)
    printed = text[text.index("\nfrom trellax") :]
    assert code == 0 and rule_in(printed) == rule_in(file.read_text()) == tuned.rule


def test_as_json_it_holds_best_and_own_plan(tuned: Tuned) -> None:
    code, text = output_of("tune", f"--hardware={HARDWARE}", "--candidates=1", "--json")
    values = json.loads(text)
    assert code == 0 and rule_in(values["rule"]) == tuned.rule
    assert tuned.best is not None and values["num_compared"] == tuned.num_compared
    assert values["best"]["mesh"] == tuned.best.mesh and values["own"]["mesh"] == tuned.own.mesh


def test_nothing_that_fits_exits_with_3(tmp_path: Path) -> None:
    file = tmp_path / "rule.py"
    command = (
        "tune",
        f"--hardware={HARDWARE}",
        f"--output={file}",
        "model.**.hidden_dim=268435456",
    )
    code, text = output_of(*command)
    assert code == 3 and "Nothing fits: take more devices" in text and "does not fit" in text
    assert not file.exists()


@needs_libtpu
def test_candidates_for_chips_with_a_compiler_are_compiled() -> None:
    plans = []
    found = tune(tiny_resolved("tpu-v5e-4"), num_candidates=1, on_plan=plans.append)
    assert [plan.memory.source for plan in plans] == 2 * ["by the compiler"]
    assert found.own is plans[0] and [plan for _, plan in found.tried] == plans[1:]
    assert found.best in plans and (found.rule is None) == (found.best is found.own)
