"""What a plan advises: one line for each thing that its numbers show, with what would mend it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.planning.synthetic import REDUCE, synthetic_plan
from trellax.experiments.planning.advice import with_advice
from trellax.experiments.planning.report import CollectiveReport
from trellax.experiments.planning.units import GIB


def advice(**changes: Any) -> list[str]:
    return list(with_advice(synthetic_plan(**changes)).advice)


def test_a_plan_that_fits_and_is_bound_by_compute_needs_no_advice() -> None:
    assert advice() == []


def test_advice_that_is_there_already_stays() -> None:
    assert advice(advice=("what was known",)) == ["what was known"]


def test_a_state_that_is_too_large_wants_more_devices() -> None:
    (line,) = advice(memory={"inputs": 20.0 * GIB, "peak": 30.0 * GIB})
    assert line.startswith("the state alone takes 20.00 GiB of 16.00 GiB: split it over more ")


@pytest.mark.parametrize(
    ("peak", "present", "steps"),
    [  # 12.5 GiB are free beside the state; 64 rows lie on 4 devices, so 16 parts at most.
        (17.0, 1, 2),
        (50.0, 1, 4),
        (50.0, 3, 12),
        (200.0, 1, 16),
    ],
)
def test_too_many_activations_want_as_many_parts_as_make_them_fit(
    peak: float, present: int, steps: int
) -> None:
    (line,) = advice(memory={"peak": peak * GIB}, accumulation_steps=present)
    assert f"have 12.50 GiB and take {peak - 3.5:.2f} GiB: accumulation_steps={steps} div" in line
    assert "a remat policy that keeps less" in line and "`tune`" in line


def test_what_the_compiler_does_not_say_is_left_out() -> None:
    (line,) = advice(memory={"peak": None, "overflows": True})
    assert "and take" not in line and "accumulation_steps=2 divides" in line


def test_a_batch_that_cannot_be_split_further_wants_other_axes() -> None:
    (line,) = advice(memory={"peak": 50.0 * GIB}, accumulation_steps=16)
    assert "accumulation_steps" not in line
    assert "each device has one row at a time already, so split rows over `model` or `seq`" in line


def test_a_tight_fit_is_warned_of() -> None:
    (line,) = advice(memory={"peak": 15.5 * GIB})
    assert line.startswith("only 0.50 GiB of 16.00 GiB are left: expect to run out")
    assert advice(memory={"peak": 15.0 * GIB}) == []


def test_room_is_for_what_is_recomputed() -> None:
    (line,) = advice(flops={"recomputed": 0.2})
    assert line.startswith("8.00 GiB are free while 20.0 % of the FLOPs are recomputation: keep")
    assert "`plan --remat`" in line
    assert advice(flops={"recomputed": 0.04}) == []
    assert advice(flops={"recomputed": 0.2}, memory={"peak": 13.0 * GIB}) == []


def test_memory_that_is_not_known_gives_no_advice() -> None:
    assert advice(memory={"capacity": None}, flops={"recomputed": 0.2}) == []
    assert advice(memory={"peak": None}) == []


def test_bound_by_memory_traffic_wants_more_tokens_a_device() -> None:
    (line,) = advice(bound={"seconds": 2.0, "by": "hbm", "parts": {"compute": 1.0, "hbm": 2.0}})
    assert line.startswith("memory traffic takes 2.0 times the compute: more tokens a device")


def test_bound_by_the_network_names_what_crosses_it() -> None:
    across = {"data": 2, "fsdp": 4, "model": 1}
    (line,) = advice(across=across, bound={"seconds": 3.0, "by": "network"})
    assert line.startswith("the network between slices or nodes takes 3.0 times the compute")
    assert "(now data, fsdp)" in line


@pytest.mark.parametrize(
    ("axis", "remedy"),
    [
        ("model", "a smaller `model` axis, or sequence-parallel norms"),
        ("fsdp", "a smaller `fsdp` axis with more `data`"),
        ("expert", "a smaller `expert` axis"),
        ("seq", "a smaller `seq` axis, or another context method"),
        ("pipeline", "another mesh"),
    ],
)
def test_bound_by_links_names_the_longest_collective_and_its_remedy(axis: str, remedy: str) -> None:
    network = f"ici:{axis}"
    longest = CollectiveReport("all-gather", (axis,), network, 1.0, 1, 2.0)
    shorter = CollectiveReport("permute", (axis,), network, 1.0, 1, 0.5)
    (line,) = advice(collectives=(REDUCE, longest, shorter), bound={"seconds": 2.5, "by": network})
    assert line.startswith(f"all-gather over {axis} takes 2.5 times the compute: {remedy}")
    assert line.endswith("would shorten it.")


def test_waiting_stages_want_more_microbatches() -> None:
    (line,) = advice(bound={"bubble": 0.3})
    assert line.startswith("stages wait 30.0 % of the time: more microbatches")
    assert advice(bound={"bubble": 0.1}) == []


def test_without_a_bound_there_is_no_advice_about_time() -> None:
    assert advice(bound=None) == []
