"""A mesh as nested boxes: each axis divides the box of the axis before it, the last one's cells are devices.

    svg = mesh_svg({"data": 4, "fsdp": 64}, across={"data": 4})

Long axes are shown by their first members and their number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape

_CELL = 16
_GAP = 5
_LABEL = 18
_SHOWN = 8
"""Members of an axis that are drawn, but for the last axis."""
_SHOWN_DEVICES = 32
_IN_A_ROW = 8


@dataclasses.dataclass(frozen=True)
class _Box:
    width: float
    height: float
    shapes: str


def mesh_svg(sizes: Mapping[str, int], across: Mapping[str, int]) -> str:
    """Returns the drawing.

    Args:
        sizes: devices along each mesh axis, outermost first.
        across: the factor of each that crosses slices or nodes.
    """
    axes = [(axis, size) for axis, size in sizes.items() if size > 1]
    box = _nested(axes, across, horizontal=True)
    return (
        f'<svg class="mesh" viewBox="-2 -2 {box.width + 4:.0f} {box.height + 4:.0f}" '
        f'width="{box.width + 4:.0f}" height="{box.height + 4:.0f}" role="img">{box.shapes}</svg>'
    )


def _nested(
    axes: Sequence[tuple[str, int]], across: Mapping[str, int], *, horizontal: bool
) -> _Box:
    if not axes:
        return _Box(_CELL, _CELL, f'<rect class="device" width="{_CELL}" height="{_CELL}" rx="3"/>')
    (axis, size), *inner = axes
    if not inner:
        return _devices(_label(axis, size, across.get(axis, 1)), size, _frame(axis, across))
    member = _nested(inner, across, horizontal=not horizontal)
    shown = min(size, _SHOWN)
    step = (member.width if horizontal else member.height) + _GAP
    label = _label(axis, size, across.get(axis, 1))
    parts = []
    for index in range(shown):
        x, y = (index * step, 0.0) if horizontal else (0.0, index * step)
        parts.append(_moved(member.shapes, _GAP + x, _LABEL + y))
    along = shown * step
    if size > shown:
        x, y = (_GAP + along, _LABEL + 12) if horizontal else (_GAP, _LABEL + along + 10)
        parts.append(f'<text x="{x:.0f}" y="{y:.0f}" class="more">… {size}</text>')
        along += 40 if horizontal else 16
    width = max((along if horizontal else member.width + _GAP) + _GAP, 7 * len(label) + 2 * _GAP)
    height = (member.height + _GAP if horizontal else along) + _LABEL
    frame = (
        f'<rect class="{_frame(axis, across)}" width="{width:.0f}" height="{height:.0f}" rx="5"/>'
        f'<text x="{_GAP}" y="13">{escape(label)}</text>'
    )
    return _Box(width, height, frame + "".join(parts))


def _devices(label: str, size: int, css: str) -> _Box:
    """Draws the last axis: its devices in rows."""
    shown = min(size, _SHOWN_DEVICES)
    columns = min(shown, _IN_A_ROW)
    step = _CELL + 3
    cells = [
        f'<rect class="device" x="{_GAP + i % columns * step}" y="{_LABEL + i // columns * step}" '
        f'width="{_CELL}" height="{_CELL}" rx="3"/>'
        for i in range(shown)
    ]
    rows = -(-shown // columns)
    width = max(columns * step + 2 * _GAP, 7 * len(label) + 2 * _GAP)
    height = _LABEL + rows * step + _GAP
    if size > shown:
        cells.append(f'<text x="{_GAP}" y="{height + 8}" class="more">… {size}</text>')
        height += 14
    frame = f'<rect class="{css}" width="{width:.0f}" height="{height:.0f}" rx="5"/>'
    return _Box(
        width, height, f'{frame}<text x="{_GAP}" y="13">{escape(label)}</text>{"".join(cells)}'
    )


def _frame(axis: str, across: Mapping[str, int]) -> str:
    """Classes of the frame: dashed where the axis crosses slices or nodes."""
    return "axis crossing" if across.get(axis, 1) > 1 else "axis"


def _label(axis: str, size: int, crossing: int) -> str:
    if crossing == 1:
        return f"{axis} {size}"
    return f"{axis} {size}: {crossing} slices or nodes" + (
        f" x {size // crossing}" if size > crossing else ""
    )


def _moved(shapes: str, x: float, y: float) -> str:
    return f'<g transform="translate({x:.0f},{y:.0f})">{shapes}</g>'
