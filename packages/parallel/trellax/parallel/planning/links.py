"""Which links a mesh axis runs over: torus axes of a slice, the switch of a node, the network between them.

    links = mesh_links(MeshShape(fsdp=-1, model=8), hardware_named("tpu-v5p-1024"))
    links["fsdp"].rings  # ((8, True), (8, True)): two torus axes of 8 chips, both closed to rings

Devices are taken to be placed as `build_mesh` places them. Where that leaves a choice (which torus axes carry a mesh axis),
the choice here is the one that is best for the axis, so that times computed from it are lower bounds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from trellax.parallel.hardware import Hardware, network_of, slice_topology, torus_is_ring
from trellax.parallel.mesh import MESH_AXES, AxisSizes, MeshShape, with_slices


@dataclasses.dataclass(frozen=True)
class AxisLinks:
    """Where the devices along one mesh axis (or several together) are."""

    within: int
    """Devices along the axis in one slice or node."""
    across: int
    """Slices or nodes along the axis."""
    per_chip: int
    """Devices along the axis on one chip."""
    rings: tuple[tuple[int, bool], ...]
    """Torus axes that the axis runs over, each with its chips and whether it is closed; () in a node with a switch."""


def mesh_links(shape: MeshShape, hardware: Hardware) -> dict[str, AxisLinks]:
    """Returns the links of each mesh axis.

    Args:
        shape: one size may be -1.
        hardware: TPU slices, GPU nodes, Trainium instances, or CPU devices, which count as one node.
    """
    resolved = shape.resolved(hardware.num_devices)
    across = parts_across(resolved, hardware)
    total = resolved.total_sizes()
    on_chip = hardware.chip.devices_per_chip
    links = {}
    for axis in reversed(MESH_AXES):  # The innermost axis has the nearest devices.
        within = total[axis] // across[axis]
        per_chip = math.gcd(within, on_chip)
        on_chip //= per_chip
        links[axis] = AxisLinks(
            within, across[axis], per_chip, _rings(within // per_chip, hardware)
        )
    return {axis: links[axis] for axis in MESH_AXES}


def joined(links: Mapping[str, AxisLinks], axes: tuple[str, ...], hardware: Hardware) -> AxisLinks:
    """Returns the links of a group of devices that lie along several mesh axes."""
    of_axes = [links[axis] for axis in axes]
    within = math.prod(link.within for link in of_axes)
    per_chip = math.prod(link.per_chip for link in of_axes)
    across = math.prod(link.across for link in of_axes)
    return AxisLinks(within, across, per_chip, _rings(within // per_chip, hardware))


def parts_across(shape: MeshShape, hardware: Hardware) -> dict[str, int]:
    """Returns over how many slices or nodes each mesh axis of a resolved shape runs.

    Without `dcn`, devices of GPU nodes are in order of their numbers, so the innermost axes stay within nodes as far as
    they fit.
    """
    if hardware.platform == "tpu":
        shape = with_slices(shape, num_slices=hardware.num_slices)
        num_parts = hardware.num_slices
    else:
        num_parts = hardware.num_hosts if hardware.platform != "cpu" else 1
    if num_parts == 1:
        return dict.fromkeys(MESH_AXES, 1)
    outer = (shape.dcn or AxisSizes()).sizes()
    inner = shape.sizes()
    per_part = math.prod(shape.total_sizes().values()) // num_parts
    block = math.prod(inner)
    across = {}
    for position, axis in enumerate(MESH_AXES):
        far = block * math.prod(outer[position + 1 :])
        near = math.prod(inner[position + 1 :])
        numbers = [
            o * far + i * near for o in range(outer[position]) for i in range(inner[position])
        ]
        across[axis] = len({number // per_part for number in numbers})
    return across


def _rings(num_chips: int, hardware: Hardware) -> tuple[tuple[int, bool], ...]:
    """Returns the fewest, largest torus axes that hold this many chips."""
    if network_of(hardware) == "switch" or num_chips == 1:
        return ()
    topology = slice_topology(hardware)
    axes = sorted(zip(topology, torus_is_ring(hardware, topology), strict=True), reverse=True)
    rings: list[tuple[int, bool]] = []
    left = num_chips
    for length, closed in axes:
        if left > 1 and length > 1:
            rings.append((min(length, left), closed))
            left = -(-left // length)
    return tuple(rings)
