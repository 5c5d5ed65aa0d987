"""How the chips of some hardware are linked: the torus of a TPU slice, the switch of a GPU node.

slice_topology(hardware_named("tpu-v5p-512"))  # (4, 8, 8)
"""

from __future__ import annotations

import importlib.resources
import math
from typing import Literal

from trellax.parallel.hardware.names import Hardware

Network = Literal["torus", "switch"]


def network_of(hardware: Hardware) -> Network:
    """Returns how chips within a slice or node reach one another: along torus axes, or all alike through a switch."""
    return "torus" if hardware.chip.torus_wraps_at else "switch"


def slice_topology(hardware: Hardware) -> tuple[int, ...]:
    """Returns the chips along each axis of one slice's torus.

    Raises:
        ValueError: if the chip has no torus, or Cloud has no slice of this size; names the sizes that exist.
    """
    chip = hardware.chip
    shapes = [tuple(map(int, shape.split("x"))) for shape in chip.topologies]
    wanted = hardware.num_chips // hardware.num_slices
    for shape in shapes:
        if math.prod(shape) == wanted:
            return shape
    if not shapes:
        raise ValueError(f"{hardware.name}: {chip.name} is not linked in a torus.")
    sizes = ", ".join(str(math.prod(shape) * chip.count_per_chip) for shape in shapes)
    raise ValueError(
        f"{hardware.name}: there is no slice of {wanted} chips. {chip.name}-COUNT exists for COUNT in {sizes}."
    )


def torus_is_ring(hardware: Hardware, topology: tuple[int, ...]) -> tuple[bool, ...]:
    """Returns for each axis of a slice's torus whether its ends are linked (`torus_wraps_at` in hardware.json)."""
    wraps = [size % hardware.chip.torus_wraps_at == 0 for size in topology]
    if (
        len(topology) > 2
    ):  # A slice is made of cubes, and only whole cubes reach the optical switches.
        return (all(wraps),) * len(topology)
    return tuple(wraps)


def link_bytes_per_second(hardware: Hardware) -> float | None:
    """Returns what one chip can send within its slice or node: over one link of a torus in one direction, or to a switch.

    The published figure is for all links and both directions; a torus of n axes has 2n links a chip.
    """
    total = hardware.chip.interconnect_bytes_per_second
    if total is None:
        return None
    if network_of(hardware) == "switch":
        return total / 2
    num_axes = len(slice_topology(hardware))
    return total / (2 * 2 * num_axes)


def gpu_target(hardware: Hardware) -> str:
    """Returns the description of a GPU that XLA compiles for where none is present, as a text proto.

    Raises:
        ValueError: if there is none for this chip.
    """
    file = importlib.resources.files(__package__).joinpath(
        "gpu_targets", f"{hardware.chip.name}.txtpb"
    )
    if not file.is_file():
        raise ValueError(
            f"{hardware.name}: there is no description of {hardware.chip.name} in gpu_targets to compile for."
        )
    return file.read_text()
