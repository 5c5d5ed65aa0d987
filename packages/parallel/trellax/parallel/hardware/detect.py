"""Which hardware this program runs on.

detect_hardware().name  # "tpu-v5p-512", "gpu-h100-8", "cpu"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trellax.parallel.hardware.chips import chip_of_kind
from trellax.parallel.hardware.names import Hardware, hardware_name


def detect_hardware(devices: Sequence[Any] | None = None) -> Hardware:
    """Returns the hardware that the devices belong to.

    Args:
        devices: JAX devices of one kind; all devices of all processes by default. Devices of an
            ahead-of-time topology work too.

    Raises:
        ValueError: if the devices are of several kinds.
    """
    if devices is None:
        import jax  # Reading a name or a config must not start a backend.

        devices = jax.devices()
    kinds = {d.device_kind for d in devices}
    if len(kinds) != 1:
        raise ValueError(f"One mesh needs devices of one kind, got {sorted(kinds) or 'none'}.")
    chip = chip_of_kind(devices[0].platform, devices[0].device_kind)
    num_chips = -(-len(devices) // chip.devices_per_chip)
    num_slices = len(slice_indices(devices))
    return Hardware(
        name=hardware_name(chip, num_chips // num_slices, num_slices=num_slices),
        chip=chip,
        num_devices=len(devices),
        num_chips=num_chips,
        num_hosts=len({d.process_index for d in devices}),
        num_slices=num_slices,
    )


def slice_indices(devices: Sequence[Any]) -> list[int]:
    """Returns the indices of the TPU slices that the devices belong to; [0] on other platforms."""
    if devices[0].platform != "tpu":
        return [0]
    return sorted({getattr(d, "slice_index", 0) for d in devices})
