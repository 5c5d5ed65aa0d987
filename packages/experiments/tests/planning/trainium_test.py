"""Plans without a compiler: estimates that say so, and what of the program the platform does not take."""

from __future__ import annotations

from typing import Any

import pytest

from tests.planning.tiny_plans import (
    LENGTH,
    NUM_PARAMETERS,
    ROWS,
    output_of,
    planned,
    tiny_resolved,
)
from trellax.experiments.planning import planned_program
from trellax.experiments.planning.estimates import StepEstimate, forward_passes

FLOAT32 = 4


@pytest.fixture(scope="module")
def plan() -> dict[str, Any]:
    (plan,) = planned("--hardware=trn2-16")
    return plan


def test_the_mesh_rule_makes_programs_that_the_platform_takes(plan: dict[str, Any]) -> None:
    assert plan["findings"] == [] and plan["num_devices"] == 64
    assert plan["mesh"]["fsdp"] == 16 and plan["mesh"]["model"] == 4


def test_the_generator_that_it_lacks_is_found_where_it_is_used() -> None:
    (plan,) = planned("--hardware=trn2-16", "prng_implementation=threefry2x32")
    assert plan["findings"] and all("threefry" in finding for finding in plan["findings"])
    assert any(finding.startswith("train_step.py:") for finding in plan["findings"])


def test_a_module_that_draws_numbers_is_named() -> None:
    (plan,) = planned(
        "--hardware=trn2-16",
        "prng_implementation=threefry2x32",
        "model.decoder.stack.layer.dropout.rate=0.1",
    )
    drawn = [finding for finding in plan["findings"] if "dropout" in finding]
    assert any(finding.startswith("root.decoder.stack.layer.dropout (") for finding in drawn)


def test_the_peak_is_an_estimate_and_says_so(plan: dict[str, Any]) -> None:
    memory = plan["memory"]
    assert memory["source"].startswith("estimated: ") and memory["temporary"] is None
    assert memory["peak"] > memory["inputs"] and memory["fits"] is True
    (note,) = plan["notes"]
    assert "lowered, not compiled" in note and "estimates" in note
    _, text = output_of("plan", "--hardware=trn2-16")
    assert "fits by an estimate, " in text and f"  - {note}\n" in text


def test_collectives_are_estimated_over_the_axes_of_the_mesh(plan: dict[str, Any]) -> None:
    kinds = {(c["kind"], tuple(c["axes"])) for c in plan["collectives"]}
    assert {("all-gather", ("fsdp",)), ("reduce-scatter", ("model",))} <= kinds
    assert plan["bound"]["seconds"] == max(plan["bound"]["parts"].values())


def test_fixed_bytes_are_state_gradients_and_two_gathered_layers() -> None:
    program = planned_program((resolved := tiny_resolved("trn2-16")).cfg, resolved.hardware)
    estimate = StepEstimate.of(program)
    one = dict.fromkeys(program.axis_sizes, 1)
    once = estimate.fixed_bytes(program.cfg.axis_rules, one, steps=1)
    gradients = FLOAT32 * NUM_PARAMETERS
    # Parameters, two moments, gradients; of the layers one each is gathered, and one comes.
    assert once > 4 * gradients and once < 5 * gradients + 1024
    accumulated = estimate.fixed_bytes(program.cfg.axis_rules, one, steps=2)
    assert accumulated - once == pytest.approx(gradients)
    assert (estimate.rows, estimate.length) == (ROWS, LENGTH)


def test_layers_run_forward_again_where_flops_are_recomputed() -> None:
    assert [forward_passes(share) for share in (0.0, 0.01, 0.02, 0.25)] == [1, 1, 2, 2]
