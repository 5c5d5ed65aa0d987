"""What devices send one another in one run of a program: kind, mesh axes, bytes, how often.

    for collective in collectives_in(hlo_text, mesh.shape):
        print(collective.kind, collective.axes, collective.total_bytes)

They are read from the module that XLA's partitioner gives, before any optimization: later passes fuse, combine and decompose
collectives, on TPU until none can be recognized. One thing is anticipated, which TPU and GPU compilers do and the bytes
depend on: an all-reduce of which each device keeps only its part counts as a reduce-scatter.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from trellax.parallel.planning.hlo_text import Computation, HloModule, Instruction, visits
from trellax.parallel.planning.replica_groups import Groups, replica_groups

CollectiveKind = Literal["all-gather", "reduce-scatter", "all-reduce", "all-to-all", "permute"]

_KINDS: dict[str, CollectiveKind] = {
    "all-gather": "all-gather",
    "all-gather-start": "all-gather",
    "reduce-scatter": "reduce-scatter",
    "all-reduce": "all-reduce",
    "all-reduce-start": "all-reduce",
    "all-to-all": "all-to-all",
    "ragged-all-to-all": "all-to-all",
    "collective-permute": "permute",
    "collective-permute-start": "permute",
    "collective-broadcast": "permute",
}
_KEEPS_ELEMENTS = ("reshape", "bitcast", "copy", "transpose", "convert")
_SMALL = 64
"""Elements up to which an all-reduce is left as it is: XLA scatters no scalars."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """Equal collective operations of a program."""

    kind: CollectiveKind
    axes: tuple[str, ...]
    """Mesh axes (outermost first, none of size 1) over which devices exchange. () where the groups are no product of axes."""
    group_size: int
    """Devices that take part together."""
    bytes: float
    """Per device and execution: of the whole array for all-gather (its result), reduce-scatter and all-reduce (operand);
    of what a device holds for all-to-all and permute."""
    times: int
    """Executions in one run of the program."""
    where: str = ""
    """The program's name for the place: "jit(step)/jvp()/while/body/dot_general"."""

    @property
    def total_bytes(self) -> float:
        """Bytes of all executions."""
        return self.bytes * self.times


def collectives_in(module: HloModule, axis_sizes: Mapping[str, int]) -> tuple[Collective, ...]:
    """Returns the collectives of a partitioned module, the largest first; equal ones are one entry.

    Args:
        module: as the partitioner leaves it.
        axis_sizes: size of each mesh axis, outermost first. Devices are numbered in the order of `mesh.devices.flat`.
    """
    found: dict[Collective, int] = {}
    groups_of_axes = _AxisGroups(axis_sizes)
    for visit in visits(module):
        kind = _KINDS.get(visit.instruction.opcode)
        if kind is None:
            continue
        collective = _read(visit.instruction, kind, visit.computation, groups_of_axes)
        if collective.group_size > 1:
            found[collective] = found.get(collective, 0) + visit.times
    merged = [dataclasses.replace(collective, times=times) for collective, times in found.items()]
    return tuple(sorted(merged, key=lambda c: (-c.total_bytes, c.kind, c.axes, c.where)))


def bytes_by_kind(
    collectives: Iterable[Collective],
) -> dict[tuple[CollectiveKind, tuple[str, ...]], float]:
    """Returns the bytes per device of each kind over each set of axes."""
    total: dict[tuple[CollectiveKind, tuple[str, ...]], float] = {}
    for c in collectives:
        total[c.kind, c.axes] = total.get((c.kind, c.axes), 0.0) + c.total_bytes
    return total


def _read(
    instruction: Instruction, kind: CollectiveKind, computation: Computation, axes: _AxisGroups
) -> Collective:
    if kind == "permute":
        pairs = _pairs(instruction.attributes)
        named, size = axes.of_pairs(pairs), 2 if pairs else 1
    else:
        groups = replica_groups(instruction.attributes) or axes.everyone()
        named, size = axes.of_groups(groups), len(groups[0])
    operands = [computation.instructions.get(name) for name, _ in instruction.operands]
    moved = instruction.bytes
    if instruction.opcode.endswith("-start") and instruction.opcode != "all-reduce-start":
        moved -= sum(
            operand.bytes for operand in operands if operand is not None
        )  # The result holds the operands, too.
    if instruction.opcode == "ragged-all-to-all" and operands[0] is not None:
        moved = min(moved, operands[0].bytes)  # The larger one has room for the worst case.
    if kind == "reduce-scatter":
        moved *= size
    elif kind == "all-reduce" and _only_own_part_is_used(instruction, computation, size):
        kind = "reduce-scatter"
    return Collective(kind, named, size, moved, 1, instruction.op_name)


def _only_own_part_is_used(reduced: Instruction, computation: Computation, size: int) -> bool:
    """Whether each device of a group goes on with one part of what was reduced."""
    elements = sum(shape.size for shape in reduced.shapes)
    if len(reduced.shapes) != 1 or elements <= _SMALL:
        return False
    users = [
        i
        for i in computation.instructions.values()
        if any(n == reduced.name for n, _ in i.operands)
    ]
    while len(users) == 1 and users[0].opcode in _KEEPS_ELEMENTS:
        name = users[0].name
        users = [
            i for i in computation.instructions.values() if any(n == name for n, _ in i.operands)
        ]
    return bool(users) and all(
        user.opcode == "dynamic-slice" and user.shapes[0].size * size <= elements for user in users
    )


class _AxisGroups:
    """Which mesh axes make which groups of devices."""

    def __init__(self, axis_sizes: Mapping[str, int]):
        self._sizes = {axis: size for axis, size in axis_sizes.items() if size > 1}
        self._num_devices = math.prod(self._sizes.values())
        self._by_groups: dict[Groups, tuple[str, ...]] = {}

    def everyone(self) -> Groups:
        return (tuple(range(self._num_devices)),)

    def of_groups(self, groups: Groups) -> tuple[str, ...]:
        """Returns the axes along which the devices of each group differ; () if they are no whole axes."""
        canonical = tuple(sorted(tuple(sorted(group)) for group in groups))
        if canonical not in self._by_groups:
            named = self._varying(canonical[0])
            whole = math.prod(self._sizes[axis] for axis in named) == len(canonical[0])
            self._by_groups[canonical] = named if whole else ()
        return self._by_groups[canonical]

    def of_pairs(self, pairs: Sequence[tuple[int, int]]) -> tuple[str, ...]:
        """Returns the axes along which senders and receivers differ."""
        varying = {axis for source, target in pairs for axis in self._varying((source, target))}
        return tuple(axis for axis in self._sizes if axis in varying)

    def _varying(self, devices: Sequence[int]) -> tuple[str, ...]:
        places = [self._place(device) for device in devices]
        return tuple(
            axis
            for axis, along in zip(self._sizes, zip(*places, strict=True), strict=True)
            if len(set(along)) > 1
        )

    def _place(self, device: int) -> tuple[int, ...]:
        place = []
        for size in reversed(self._sizes.values()):
            device, along = divmod(device, size)
            place.append(along)
        return tuple(reversed(place))


def _pairs(attributes: str) -> list[tuple[int, int]]:
    found = re.search(r"source_target_pairs=\{([\d,{}]*)\}", attributes)
    pairs = re.findall(r"\{(\d+),(\d+)\}", found[1]) if found else []
    return [(int(source), int(target)) for source, target in pairs if source != target]
