"""Groups of devices, as XLA writes them behind a collective operation.

    replica_groups("replica_groups=[2,2]<=[2,2]T(1,0), ...")  # ((0, 2), (1, 3))

Devices are numbered by their place in the program's device assignment, which is the order of `mesh.devices.flat`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

Groups = tuple[tuple[int, ...], ...]

_LIST = re.compile(r"replica_groups=\{(\{[\d,{}]*\})?\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=@?mesh\[(?P<sizes>[^\]]*)\]"
    r"(?:, device_ids=\((?:\[(?P<shape>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?|(?P<ids>[\d, ]+))\))?"
    r" *\{(?P<axes>[^}]*)\}"
)
_MESH_SIZE = re.compile(r"'([^']+)'=(\d+)")
_MESH_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


def replica_groups(attributes: str) -> Groups:
    """Returns the groups of devices that an instruction names; () if it names none, which means all devices together.

    XLA writes them in three ways: a list, `{{0,1},{2,3}}`; an iota that is reshaped, transposed and cut into rows,
    `[2,4]<=[4,2]T(1,0)`; and axes of a mesh, `mesh['a'=4,'b'=2] {'b'}`. Of the last, an axis may be a part of another
    (`'a':(1)2`, the first 2 of its 4), and the mesh's devices may be in another order (`device_ids=([2,4]T(1,0))`).

    Raises:
        ValueError: for a fourth.
    """
    listed = _LIST.search(attributes)
    if listed:
        rows = re.findall(r"\{([\d,]+)\}", listed[1] or "")
        return tuple(_ints(row) for row in rows)
    iota = _IOTA.search(attributes)
    if iota:
        return _rows(_iota(iota[2], iota[3]), _ints(iota[1])[-1])
    mesh = _MESH.search(attributes)
    if mesh:
        places = _places_by_group(mesh["sizes"], mesh["axes"])
        devices = _iota(mesh["shape"], mesh["order"]) if mesh["shape"] else _ints(mesh["ids"])
        return tuple(tuple(devices[p] if devices else p for p in group) for group in places)
    if "replica_groups=" in attributes:
        raise ValueError(f"Unknown form of replica groups: {attributes[:200]}.")
    return ()


def _places_by_group(sizes: str, axes: str) -> Groups:
    """Returns groups of places in a mesh: those that differ along the axes alone."""
    named = [
        (name, int(before or 1), int(part or 0)) for name, before, part in _MESH_AXIS.findall(axes)
    ]
    parts: list[tuple[int, bool]] = (
        []
    )  # Sizes of the finest axes, and whether they are within a group.
    for name, size in _MESH_SIZE.findall(sizes):
        taken = [(before, part or int(size)) for axis, before, part in named if axis == name]
        parts.extend(_split_axis(int(size), taken))
    dims = tuple(size for size, _ in parts)
    outer = [dim for dim, (_, within) in enumerate(parts) if not within]
    inner = [dim for dim, (_, within) in enumerate(parts) if within]
    return _rows(_transposed(dims, (*outer, *inner)), math.prod(dims[dim] for dim in inner))


def _split_axis(size: int, taken: Sequence[tuple[int, int]]) -> list[tuple[int, bool]]:
    """Splits an axis into parts, given those within a group as (product of the parts before it, size)."""
    parts, done = [], 1
    for before, part in sorted(taken):
        parts += [(before // done, False), (part, True)]
        done = before * part
    return [(n, within) for n, within in [*parts, (size // done, False)] if n > 1]


def _iota(shape: str, order: str | None) -> list[int]:
    dims = _ints(shape)
    return _transposed(dims, _ints(order) or tuple(range(len(dims))))


def _transposed(dims: tuple[int, ...], order: tuple[int, ...]) -> list[int]:
    """Returns 0, 1, 2, ... of this shape, transposed and flattened."""
    strides = [math.prod(dims[dim + 1 :]) for dim in range(len(dims))]
    ranges = [range(0, dims[dim] * strides[dim], strides[dim]) for dim in order]
    return [sum(place) for place in itertools.product(*ranges)]


def _rows(devices: Sequence[int], length: int) -> Groups:
    return tuple(tuple(devices[i : i + length]) for i in range(0, len(devices), length))


def _ints(text: str | None) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",")) if text else ()
