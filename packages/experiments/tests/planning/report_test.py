"""What follows from a report's numbers: working memory, margin, whether it fits, JSON."""

from __future__ import annotations

import json

from tests.planning.synthetic import synthetic_plan
from trellax.experiments.planning.units import GIB


def test_the_margin_is_what_the_peak_leaves() -> None:
    plan = synthetic_plan()
    assert plan.memory.margin == 8 * GIB and plan.memory.working == 4.5 * GIB
    assert plan.fits is True


def test_a_peak_beyond_the_capacity_does_not_fit() -> None:
    plan = synthetic_plan(memory={"peak": 18.0 * GIB})
    assert plan.memory.margin == -2 * GIB and plan.fits is False
    assert synthetic_plan(memory={"peak": 16.0 * GIB}).fits is True  # To the last byte.


def test_without_a_capacity_or_a_peak_it_is_not_known() -> None:
    for unknown in ("capacity", "peak"):
        memory = synthetic_plan(memory={unknown: None}).memory
        assert memory.margin is None and memory.fits is None
    assert synthetic_plan(memory={"peak": None}).memory.working is None


def test_where_the_compiler_gave_up_it_does_not_fit_whatever_it_said() -> None:
    for peak in (None, 1.0 * GIB):
        assert synthetic_plan(memory={"peak": peak, "overflows": True}).fits is False


def test_more_arguments_than_peak_leave_no_negative_working_memory() -> None:
    assert synthetic_plan(memory={"peak": 2.0 * GIB}).memory.working == 0


def test_json_has_all_numbers_and_what_follows_from_them() -> None:
    plan = synthetic_plan(findings=("f",), notes=("n",)).with_cost({"cpu_seconds": 9.0})
    values = json.loads(json.dumps(plan.to_dict()))
    assert values["memory"]["margin"] == 8 * GIB and values["memory"]["fits"] is True
    assert values["memory"]["working"] == 4.5 * GIB
    assert values["collectives"][0]["axes"] == ["fsdp"]
    assert values["bound"]["parts"]["ici:fsdp"] == 0.25
    assert values["cost"] == {"cpu_seconds": 9.0} and plan.num_devices == values["num_devices"] == 4
    assert (values["findings"], values["notes"]) == (["f"], ["n"])
