"""Hardware and its names: `tpu-v5p-512`, `tpu-v5e-256-4`, `gpu-h100-256`, `trn2-64`, `cpu`.

    hardware_named("tpu-v5p-512").num_chips  # 256: Cloud counts the two TensorCores of a v5p chip

A name is `CHIP-COUNT` or, for several TPU slices, `CHIP-COUNT-SLICES` with COUNT of one slice.
TPU counts are those of Cloud's accelerator types: TensorCores for v4, v5p and 7x, chips for v5e and
v6e. All others count chips, also those named after an instance type: `gpu-p5.48xlarge-256` is `gpu-h100-256`.
`cpu` has no count: a program has as many CPU devices as it asks for.
"""

from __future__ import annotations

import dataclasses
import re

from trellax.parallel.hardware.chips import Chip, chip_named

_NAME = re.compile(r"(?P<chip>[a-z0-9.-]*?)(-(?P<count>[1-9]\d*))?(-(?P<slices>[1-9]\d*))?")


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A set of equal accelerators that run one program."""

    name: str
    """What mesh rules match: see the module's docstring."""
    chip: Chip
    num_devices: int
    """JAX devices, of all hosts."""
    num_chips: int
    num_hosts: int = 1
    num_slices: int = 1
    """Parts that are joined by the data-centre network only (TPU slices)."""

    @property
    def platform(self) -> str:
        """JAX's name of the platform: "tpu", "gpu", "neuron" or "cpu"."""
        return self.chip.platform

    @property
    def hbm_bytes_per_device(self) -> float | None:
        """Memory of one JAX device in bytes, None if unknown."""
        if self.chip.hbm_bytes is None:
            return None
        return self.chip.hbm_bytes / self.chip.devices_per_chip

    @property
    def usable_hbm_bytes_per_device(self) -> float | None:
        """What a program may use of one JAX device's memory, in bytes; all of it where nothing else is known."""
        if self.chip.usable_hbm_gib_per_device is None:
            return self.hbm_bytes_per_device
        return self.chip.usable_hbm_gib_per_device * 2**30

    @property
    def devices_per_host(self) -> int:
        """JAX devices of one host."""
        return self.num_devices // self.num_hosts


def hardware_named(name: str) -> Hardware:
    """Returns the hardware with this name; needs no devices.

    Args:
        name: for example "tpu-v5p-512" or "gpu-h100-256"; aliases of chips are understood and
            become the chip's own name ("tpu-v5litepod-256" is "tpu-v5e-256").

    Raises:
        ValueError: if the chip is unknown, the count is missing, or no such size exists.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name!r} is not a hardware name; write CHIP-COUNT as in 'gpu-h100-256'.")
    chip = chip_named(match["chip"])
    if chip.platform == "cpu":
        return Hardware(name=chip.name, chip=chip, num_devices=1, num_chips=1)
    if match["count"] is None:
        raise ValueError(f"{name!r} lacks a count; write {chip.name}-COUNT.")
    return hardware_of(chip, int(match["count"]), num_slices=int(match["slices"] or 1))


def hardware_of(chip: Chip, count: int, *, num_slices: int = 1) -> Hardware:
    """Returns `num_slices` slices whose name counts `count` each.

    Raises:
        ValueError: if `count` is no whole number of chips, or slices are asked of a chip without.
    """
    if count % chip.count_per_chip:
        raise ValueError(
            f"{chip.name}-{count}: the name counts {chip.count_per_chip} for each chip, so "
            f"{count} is not a whole number of chips."
        )
    if num_slices > 1 and chip.platform != "tpu":
        raise ValueError(f"{chip.name}-{count}-{num_slices}: only TPUs come in slices.")
    num_chips = count // chip.count_per_chip
    one_host = max(chip.max_chips_one_host, chip.chips_per_host)
    hosts = 1 if num_chips <= one_host else -(-num_chips // chip.chips_per_host)
    return Hardware(
        name=hardware_name(chip, num_chips, num_slices=num_slices),
        chip=chip,
        num_devices=num_chips * chip.devices_per_chip * num_slices,
        num_chips=num_chips * num_slices,
        num_hosts=hosts * num_slices,
        num_slices=num_slices,
    )


def hardware_name(chip: Chip, chips_per_slice: int, *, num_slices: int = 1) -> str:
    """Returns the name of `num_slices` slices of `chips_per_slice` chips."""
    if chip.platform == "cpu":
        return chip.name
    name = f"{chip.name}-{chips_per_slice * chip.count_per_chip}"
    return f"{name}-{num_slices}" if num_slices > 1 else name


def peak_flops(hardware: Hardware, dtype: str) -> float | None:
    """Returns the dense FLOP/s of all chips together, the denominator of MFU.

    Args:
        hardware: what runs the program.
        dtype: type of the arrays that are multiplied, such as "bfloat16". float32 means JAX's
            default precision: one bfloat16 pass on TPU, TF32 on NVIDIA GPUs.

    Returns:
        FLOP/s, or None where nothing is published (CPUs, unlisted chips and types).
    """
    key = re.sub(r"^(float[48])_.*", r"\1", dtype)
    per_chip = hardware.chip.peak_flops.get(key)
    return None if per_chip is None else per_chip * hardware.num_chips
