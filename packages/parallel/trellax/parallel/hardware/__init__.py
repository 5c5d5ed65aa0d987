"""Accelerators: their names, their published facts, and which ones are here.

from trellax.parallel.hardware import detect_hardware, hardware_named, peak_flops
"""

from trellax.parallel.hardware.chips import Chip, chip_named, known_chips
from trellax.parallel.hardware.detect import detect_hardware, slice_indices
from trellax.parallel.hardware.names import Hardware, hardware_named, peak_flops

__all__ = [
    "Chip",
    "Hardware",
    "chip_named",
    "detect_hardware",
    "hardware_named",
    "known_chips",
    "peak_flops",
    "slice_indices",
]
