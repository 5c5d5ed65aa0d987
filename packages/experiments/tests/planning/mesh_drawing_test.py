"""A mesh as boxes: an axis a frame, what crosses slices marked, long axes cut with their number."""

from __future__ import annotations

from tests.planning.pages import Page
from trellax.experiments.planning.mesh_drawing import mesh_svg


def drawn(sizes: dict[str, int], **across: int) -> Page:
    return Page(mesh_svg(sizes, across))


def test_axes_nest_outermost_first_and_those_of_one_device_are_left_out() -> None:
    page = drawn({"pipeline": 1, "data": 2, "fsdp": 3})
    assert page.texts["text"] == ["data 2", "fsdp 3", "fsdp 3"]
    assert len(page.of_class("axis")) == 3 and len(page.of_class("device")) == 6


def test_one_device_is_a_cell() -> None:
    page = drawn({"data": 1, "fsdp": 1})
    assert len(page.of_class("device")) == 1 and not page.of_class("axis")


def test_an_axis_that_crosses_slices_is_marked_also_the_innermost() -> None:
    page = drawn({"data": 4, "fsdp": 2}, data=2)
    assert page.texts["text"][0] == "data 4: 2 slices or nodes x 2"
    assert len(page.of_class("crossing")) == 1
    inner = drawn({"fsdp": 2}, fsdp=2)
    assert inner.texts["text"] == ["fsdp 2: 2 slices or nodes"] and inner.of_class("crossing")


def test_long_axes_show_their_first_members_and_their_number() -> None:
    page = drawn({"data": 100, "fsdp": 512})
    assert len(page.of_class("device")) == 8 * 32
    assert page.texts["text"].count("… 100") == 1 and page.texts["text"].count("… 512") == 8


def test_every_shape_lies_in_the_drawing() -> None:
    page = drawn({"data": 3, "expert": 2, "fsdp": 40, "model": 2}, data=3)
    (svg,) = page.of_class("mesh")
    outermost = page.of_class("axis")[0]  # It holds all others.
    assert float(outermost["width"] or 0) <= float(svg["width"] or 0)
    assert float(outermost["height"] or 0) <= float(svg["height"] or 0)
