"""A plan as a page: well-formed, whole, escaped, with the plan's numbers in a block of JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.planning.pages import Page
from tests.planning.synthetic import synthetic_plan
from trellax.experiments.planning import plans_html
from trellax.experiments.planning.report import Plan
from trellax.experiments.planning.units import GIB

TITLES = [
    "Mesh",
    "Memory of a device",
    "The step, every part at its peak",
    "Collectives of a step",
    "Limits of the platform",
    "Advice",
    "Notes",
]
HOSTILE = '</script><script>alert("x")</script> <b>&amp;'


def page_of(*plans: Plan) -> Page:
    return Page(plans_html(plans))


def width(attributes: dict[str, str | None]) -> float:
    return float(attributes["width"] or 0)


def test_every_section_is_there_with_its_numbers() -> None:
    plan = synthetic_plan(findings=("a finding",), advice=("an advice",), notes=("a note",))
    page = page_of(plan)
    assert page.texts["h1"] == ["Plan of a_model"] and page.texts["h3"] == TITLES
    assert page.texts["li"] == ["a finding", "an advice", "a note"]
    assert page.texts["td"][:6] == ["all-gather", "fsdp", "ici:fsdp", "3.00 GiB", "12", "250.00 ms"]
    assert "At least 1.00 s a step, by compute: MFU at most 75.0 %, 65,536 tokens/s." in (
        page.texts["div"]
    )


def test_what_there_is_not_is_left_out() -> None:
    page = page_of(synthetic_plan(bound=None, collectives=()))
    assert page.texts["h3"] == TITLES[:2] and "td" not in page.texts


def test_each_plan_has_a_section_and_all_are_in_the_json() -> None:
    plans = [synthetic_plan(hardware=name) for name in ("tpu-v5e-4", "trn2-16")]
    page = page_of(*plans)
    assert [text.strip() for text in page.texts["h2"]] == ["tpu-v5e-4", "trn2-16"]
    assert page.json() == json.loads(json.dumps([plan.to_dict() for plan in plans]))


def test_nothing_from_outside_becomes_markup() -> None:
    plan = synthetic_plan(
        experiment=HOSTILE, hardware=HOSTILE, rule=HOSTILE, advice=(HOSTILE,), notes=(HOSTILE,)
    )
    page = page_of(plan)
    assert page.texts["h1"] == [f"Plan of {HOSTILE}"] and page.texts["li"] == [HOSTILE, HOSTILE]
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert page.json()[0]["advice"] == [HOSTILE]


def test_the_page_needs_nothing_else() -> None:
    text = plans_html([synthetic_plan()])
    assert text.lower().startswith("<!doctype html>")
    assert not [a for _, a in page_of(synthetic_plan()).elements if {"src", "href"} & set(a)]
    assert "@import" not in text and "url(" not in text


@pytest.mark.parametrize(
    ("memory", "css"),
    [({}, "fits"), ({"peak": 20.0 * GIB}, "not"), ({"capacity": None}, "facts")],
)
def test_the_verdict_is_colored(memory: dict[str, Any], css: str) -> None:
    spans = [a for tag, a in page_of(synthetic_plan(memory=memory)).elements if tag == "span"]
    assert [span["class"] for span in spans] == [css]


def test_bytes_are_stacked_to_scale_against_what_is_usable() -> None:
    page = page_of(synthetic_plan())
    bars = {css: width(page.of_class(css)[0]) for css in ("parameters", "optimizer", "working")}
    assert bars["optimizer"] == pytest.approx(2 * bars["parameters"], abs=0.2)
    assert bars["working"] == pytest.approx(4.5 * bars["parameters"], abs=0.2)
    limit = page.of_class("limit")[0]
    assert float(limit["x1"] or 0) == pytest.approx(16 * bars["parameters"], abs=1)


def test_lanes_of_the_timeline_are_as_long_as_their_times() -> None:
    page = page_of(synthetic_plan(bound={"bubble": 0.25}))
    (compute,), (hbm,), (bubble,) = map(page.of_class, ("compute", "hbm", "bubble"))
    assert width(compute) == pytest.approx(2 * width(hbm), abs=2)
    assert width(bubble) == pytest.approx(0.25 * width(compute), abs=2)
    links = page.of_class("links")
    assert [width(lane) for lane in links] == pytest.approx(
        [width(compute) / 4, width(compute) / 8], abs=2
    )
