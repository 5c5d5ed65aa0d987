"""Accelerators: their names, their published facts, and which ones are here.

from trellax.parallel.hardware import detect_hardware, hardware_named, peak_flops
"""

from trellax.parallel.hardware.chips import Chip, chip_named, known_chips
from trellax.parallel.hardware.detect import detect_hardware, slice_indices
from trellax.parallel.hardware.names import Hardware, hardware_named, peak_flops
from trellax.parallel.hardware.topology import (
    Network,
    gpu_target,
    link_bytes_per_second,
    network_of,
    slice_topology,
    torus_is_ring,
)
from trellax.parallel.hardware.xla_flags import (
    XlaFlag,
    apply_xla_flags,
    compiler_options,
    xla_flags,
)

__all__ = [
    "Chip",
    "Hardware",
    "Network",
    "XlaFlag",
    "apply_xla_flags",
    "chip_named",
    "compiler_options",
    "detect_hardware",
    "gpu_target",
    "hardware_named",
    "known_chips",
    "link_bytes_per_second",
    "network_of",
    "peak_flops",
    "slice_indices",
    "slice_topology",
    "torus_is_ring",
    "xla_flags",
]
