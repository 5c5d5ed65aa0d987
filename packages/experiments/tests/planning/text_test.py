"""A plan as text: every section where there is something to say, none where there is not."""

from __future__ import annotations

import pytest

from tests.planning.synthetic import synthetic_plan
from trellax.experiments.planning import mesh_text, plan_text, verdict
from trellax.experiments.planning.report import CollectiveReport
from trellax.experiments.planning.units import GIB

TITLES = (
    "memory of a device",
    "collectives of a step, a device",
    "work and time of a step",
    "limits of the platform that this breaks",
    "advice",
    "notes",
)


def lines_of(text: str) -> list[list[str]]:
    """Returns each line's cells, which two spaces or more separate."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()
    ]


def test_every_section_is_there_and_says_the_numbers() -> None:
    plan = synthetic_plan(findings=("a finding",), advice=("an advice",), notes=("a note",))
    lines = lines_of(plan_text(plan))
    assert [line[0] for line in lines if line and line[0] in TITLES] == list(TITLES)
    for line in (
        ["a_model"],
        ["hardware", "tpu-v5e-4, 4 devices"],
        ["mesh rule", "'tpu-.*': by hand"],
        ["mesh", "data=2, fsdp=2 (of which across slices or nodes: data=2)"],
        ["parameters", "1,234,567"],
        ["batch", "64 x 1,024 = 65,536 tokens"],
        ["verdict", "fits, 8.00 GiB to spare"],
        ["peak", "8.00 GiB (by the compiler)"],
        ["activations, gradients, gathered weights", "4.50 GiB"],
        ["all-gather", "fsdp", "ici:fsdp", "3.00 GiB", "12", "250.00 ms"],
        ["all-reduce", "data", "network", "512.00 MiB", "1", "125.00 ms"],
        ["executed FLOPs", "4.00 PFLOP, of which recomputed 0.0 %"],
        ["time for ici:fsdp", "250.00 ms"],
        ["lower bound of the step", "1.00 s, by compute"],
        ["at that bound", "MFU 75.0 %, 65,536 tokens/s"],
        ["this plan took", "2 CPU s, 1.00 GiB"],
        ["- a finding"],
        ["- an advice"],
        ["- a note"],
    ):
        assert line in lines


def test_what_there_is_not_is_left_out() -> None:
    text = plan_text(synthetic_plan(collectives=(), bound=None, cost={}))
    titles = [line for line in text.splitlines() if line in TITLES]
    assert titles == ["memory of a device", "work and time of a step"]
    assert "bubble" not in text and "offloaded" not in text and "in 1 parts" not in text


def test_accumulation_offloading_and_the_bubble_are_told() -> None:
    text = plan_text(
        synthetic_plan(memory={"host": 3.0 * GIB}, bound={"bubble": 0.25}, accumulation_steps=4)
    )
    lines = lines_of(text)
    assert ["batch", "64 x 1,024 = 65,536 tokens, in 4 parts"] in lines
    assert ["offloaded to the host", "3.00 GiB"] in lines and ["pipeline bubble", "25.0 %"] in lines


def test_groups_that_are_no_mesh_axes_are_named_so() -> None:
    other = CollectiveReport("permute", (), "?", 5.0, 2, None)
    assert ["permute", "(other groups)", "?", "5 B", "2", "?"] in lines_of(
        plan_text(synthetic_plan(collectives=(other,)))
    )


def test_a_mesh_of_one_device_is_called_that() -> None:
    plan = synthetic_plan(num_devices=1, mesh={"data": 1}, across={"data": 1})
    assert mesh_text(plan) == "one device"
    assert ["hardware", "tpu-v5e-4, 1 device"] in lines_of(plan_text(plan))


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ({}, "fits, 8.00 GiB to spare"),
        ({"peak": 18.5 * GIB}, "DOES NOT FIT, 2.50 GiB too much"),
        ({"capacity": None}, "not known whether it fits"),
        ({"peak": None}, "not known whether it fits"),
        ({"peak": None, "overflows": True}, "DOES NOT FIT"),
        ({"source": "estimated: by hand"}, "fits by an estimate, 8.00 GiB to spare"),
        (
            {"source": "estimated: by hand", "peak": 17.0 * GIB},
            "DOES NOT FIT by an estimate, 1.00 GiB too much",
        ),
    ],
)
def test_the_verdict_says_how_much_is_left_or_too_much(
    memory: dict[str, object], said: str
) -> None:
    assert verdict(synthetic_plan(memory=memory)) == said
