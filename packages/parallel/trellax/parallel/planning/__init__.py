"""What a program needs of hardware that is not here: memory, FLOPs, collectives, time at best.

from trellax.parallel.planning import aot_devices, compile_program
"""

from trellax.parallel.planning.collectives import (
    Collective,
    CollectiveKind,
    bytes_by_kind,
    collectives_in,
)
from trellax.parallel.planning.devices import PlanningUnavailableError, abstract_mesh, aot_devices
from trellax.parallel.planning.memory import MemoryUse, memory_of
from trellax.parallel.planning.program import CompiledProgram, compile_program

__all__ = [
    "Collective",
    "CollectiveKind",
    "CompiledProgram",
    "MemoryUse",
    "PlanningUnavailableError",
    "abstract_mesh",
    "aot_devices",
    "bytes_by_kind",
    "collectives_in",
    "compile_program",
    "memory_of",
]
