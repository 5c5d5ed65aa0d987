"""What is known of each kind of chip: `hardware.json`, read.

chip_named("tpu-v5p").peak_flops["bfloat16"]  # 4.59e14 a chip
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

from trellax.config import did_you_mean


@dataclasses.dataclass(frozen=True)
class Chip:
    """Facts of one chip; None or an empty mapping where nothing is published.

    The comments in `hardware.json` say how each number counts.
    """

    name: str
    """What hardware names begin with: "tpu-v5p", "gpu-h100", "trn2", "cpu"."""
    platform: str
    """JAX's name of the platform: "tpu", "gpu", "neuron", "cpu"."""
    device_kinds: tuple[str, ...] = ()
    """What `jax.Device.device_kind` says on this chip."""
    aliases: tuple[str, ...] = ()
    """Other names that are understood, such as Cloud's "tpu-v5litepod"."""
    peak_flops: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Dense FLOP/s by array type; all 8-bit floats are "float8"."""
    hbm_bytes: float | None = None
    usable_hbm_gib_per_device: float | None = None
    """Of one JAX device, what the compiler lets a program use; None where that is not known to be less than all."""
    hbm_bytes_per_second: float | None = None
    interconnect_bytes_per_second: float | None = None
    """ICI, NVLink or NeuronLink: all links of the chip, both directions."""
    network_bytes_per_second: float | None = None
    """The chip's share of its host's data-centre network."""
    chips_per_host: int = 1
    max_chips_one_host: int = 0
    """Chips of the largest slice that a single host holds, where that exceeds `chips_per_host`."""
    count_per_chip: int = 1
    """What a chip adds to the number in a name: 2 where Cloud counts TensorCores."""
    devices_per_chip: int = 1
    """JAX devices of a chip."""
    topology_generation: str | None = None
    """What libtpu calls the chip in the names of topologies: "v5p" in "v5p:4x8x8"."""
    topologies: tuple[str, ...] = ()
    """Shapes of a slice, in chips along each axis of its torus."""
    torus_wraps_at: int = 0
    """A torus axis of a multiple of this is a ring, others are lines. 0: no torus, all chips of a node are linked alike."""
    sources: tuple[str, ...] = ()


@functools.cache
def known_chips() -> Mapping[str, Chip]:
    """Returns the chips of `hardware.json` by name."""
    text = importlib.resources.files(__package__).joinpath("hardware.json").read_text()
    return {name: _chip(name, facts) for name, facts in json.loads(text)["chips"].items()}


def chip_named(name: str) -> Chip:
    """Returns the chip with this name or alias.

    Raises:
        ValueError: if none has it; lists near names and all known ones.
    """
    for chip in known_chips().values():
        if name == chip.name or name in chip.aliases:
            return chip
    raise ValueError(
        f"Unknown chip {name!r}.{did_you_mean(name, known_chips())} "
        f"Known: {', '.join(known_chips())}. Another one is an entry in hardware.json."
    )


def chip_of_kind(platform: str, device_kind: str) -> Chip:
    """Returns the chip that reports this `device_kind`; one without facts if it is not listed."""
    for chip in known_chips().values():
        if device_kind.lower() in (kind.lower() for kind in chip.device_kinds):
            return chip
    slug = "".join(c if c.isalnum() else "-" for c in device_kind.lower()).strip("-")
    slug = slug.removeprefix(f"{platform}-").removeprefix("nvidia-")
    return Chip(name=f"{platform}-{slug}", platform=platform, device_kinds=(device_kind,))


def _chip(name: str, facts: dict[str, Any]) -> Chip:
    fixed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
    return Chip(name=name, **fixed)
