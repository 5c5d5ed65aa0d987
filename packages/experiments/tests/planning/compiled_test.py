"""Plans that libtpu compiles: their numbers agree with arithmetic and with one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.planning.pages import Page
from tests.planning.tiny_plans import (
    DIM,
    HIDDEN,
    LAYERS,
    LENGTH,
    NUM_PARAMETERS,
    ROWS,
    VOCAB,
    needs_libtpu,
    output_of,
    planned,
)
from trellax.parallel import hardware_named
from trellax.parallel.hardware import peak_flops

pytestmark = needs_libtpu
FLOAT32 = 4


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plan with parameters over four chips, and the page of it."""
    page = tmp_path_factory.mktemp("plans") / "plan.html"
    (plan,) = planned("--hardware=tpu-v5e-4", f"--html={page}")
    return {**plan, "page": page.read_text()}


@pytest.fixture(scope="module")
def tensor() -> list[dict[str, Any]]:
    """Plans of two chips' kinds at once, with two devices of each four for every matrix."""
    return planned(
        "--hardware=tpu-v5e-4", "--hardware=tpu-v6e-4", "mesh_shape.fsdp=2", "mesh_shape.model=2"
    )


def test_the_state_is_what_arithmetic_says(fsdp: dict[str, Any]) -> None:
    assert fsdp["num_parameters"] == NUM_PARAMETERS
    memory = fsdp["memory"]
    split = FLOAT32 * NUM_PARAMETERS / 4
    norms = FLOAT32 * DIM * (2 * LAYERS + 1)  # They are whole on every device.
    assert memory["parameters"] == pytest.approx(split + 0.75 * norms)
    # AdamW's two moments, and counters.
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], abs=64)


def test_the_peak_holds_the_arguments_and_fits(fsdp: dict[str, Any]) -> None:
    memory = fsdp["memory"]
    assert memory["inputs"] >= memory["parameters"] + memory["optimizer"]
    assert memory["peak"] > memory["inputs"] and memory["temporary"] > 0
    assert memory["margin"] == memory["capacity"] - memory["peak"] > 0 and memory["fits"] is True
    assert memory["source"] == "by the compiler"


def test_weights_travel_over_the_axis_that_splits_them(fsdp: dict[str, Any]) -> None:
    assert fsdp["mesh"]["fsdp"] == fsdp["num_devices"] == 4
    assert {tuple(c["axes"]) for c in fsdp["collectives"]} == {("fsdp",)}
    by_kind = {c["kind"]: c for c in fsdp["collectives"]}
    matrices = NUM_PARAMETERS - DIM * (2 * LAYERS + 1)
    # Gathered in two bytes an element, for the forward and the backward pass at least.
    assert by_kind["all-gather"]["bytes"] >= 2 * 2 * (matrices - 2 * VOCAB * DIM)
    assert by_kind["reduce-scatter"]["bytes"] >= 2 * (matrices - 2 * VOCAB * DIM)
    assert all(c["network"] == "ici:fsdp" and c["seconds"] > 0 for c in fsdp["collectives"])


def test_tensor_parallelism_adds_collectives_over_its_axis(tensor: list[dict[str, Any]]) -> None:
    for plan in tensor:
        axes = {axis for c in plan["collectives"] for axis in c["axes"]}
        assert axes == {"fsdp", "model"}
        assert plan["mesh"]["fsdp"] == plan["mesh"]["model"] == 2


def test_the_bound_is_no_faster_than_the_chips(fsdp: dict[str, Any]) -> None:
    bound, flops = fsdp["bound"], fsdp["flops"]
    peak = peak_flops(hardware_named("tpu-v5e-4"), "bfloat16")
    assert peak is not None
    assert bound["seconds"] == max(bound["parts"].values()) == bound["parts"][bound["by"]]
    # Kernels may skip half of attention, so that what must be computed is a little less than what MFU counts.
    attention = 3 * 4 * LAYERS * ROWS * LENGTH**2 * DIM
    assert bound["parts"]["compute"] >= (flops["model"] - attention) / peak
    assert bound["mfu"] == pytest.approx(flops["model"] / peak / bound["seconds"])
    assert bound["tokens_per_second"] == pytest.approx(ROWS * LENGTH / bound["seconds"])


def test_model_flops_are_those_of_the_formula(fsdp: dict[str, Any]) -> None:
    tokens = ROWS * LENGTH
    matrices = NUM_PARAMETERS - DIM * (2 * LAYERS + 1) - VOCAB * DIM  # No embedding.
    attention = LAYERS * 2 * LENGTH * DIM
    assert fsdp["flops"]["model"] == pytest.approx(6 * tokens * (matrices + attention), rel=1e-6)
    assert fsdp["flops"]["executed"] >= fsdp["flops"]["model"]
    assert 0 < fsdp["flops"]["recomputed"] < 1 / 3


def test_several_kinds_of_hardware_are_planned_in_order(tensor: list[dict[str, Any]]) -> None:
    assert [plan["hardware"] for plan in tensor] == ["tpu-v5e-4", "tpu-v6e-4"]
    first, second = tensor
    assert second["memory"]["capacity"] > first["memory"]["capacity"]
    assert second["bound"]["parts"]["compute"] < first["bound"]["parts"]["compute"]


def test_the_page_holds_the_plan(fsdp: dict[str, Any]) -> None:
    page = Page(fsdp["page"])
    assert "Memory of a device" in page.texts["h3"] and page.of_class("mesh")
    (shown,) = page.json()
    assert shown == {name: value for name, value in fsdp.items() if name != "page"}


def test_what_does_not_fit_exits_with_3_says_by_how_much_and_what_would_mend_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "step"
    code, text = output_of(
        "plan",
        "--hardware=tpu-v5e-4",
        "input.sequence_length=65536",
        "model.**.hidden_dim=65536",
        "model.decoder.stack.layer.remat=None",
        f"--save={file}",
    )
    assert code == 3 and " too much\n" in text and "DOES NOT FIT" in text
    advice = text[text.index("\nadvice\n") :]
    assert "accumulation_steps=4 divides the activations" in advice
    assert not file.exists() and f"{file} was not written: the step does not fit." in text


def test_a_compiled_step_for_chips_is_written(tmp_path: Path) -> None:
    file = tmp_path / "step"
    (plan,) = planned("--hardware=tpu-v5e-4", f"--save={file}", f"model.**.hidden_dim={2 * HIDDEN}")
    assert plan["notes"] == [] and file.stat().st_size > 10_000
