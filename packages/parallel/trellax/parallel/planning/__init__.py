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
from trellax.parallel.planning.estimate import StepWork, estimate_collectives
from trellax.parallel.planning.flops import FlopCount, flops_of
from trellax.parallel.planning.links import AxisLinks, mesh_links
from trellax.parallel.planning.memory import MemoryUse, memory_of
from trellax.parallel.planning.neuron import Finding, neuron_lint
from trellax.parallel.planning.program import CompiledProgram, compile_program
from trellax.parallel.planning.residuals import (
    RematCost,
    pareto_front,
    remat_costs,
    saved_bytes,
    tagged_bytes,
)
from trellax.parallel.planning.roofline import (
    Roofline,
    StepCosts,
    communication_seconds,
    roofline,
)

__all__ = [
    "AxisLinks",
    "Collective",
    "CollectiveKind",
    "CompiledProgram",
    "Finding",
    "FlopCount",
    "MemoryUse",
    "PlanningUnavailableError",
    "RematCost",
    "Roofline",
    "StepCosts",
    "StepWork",
    "abstract_mesh",
    "aot_devices",
    "bytes_by_kind",
    "collectives_in",
    "communication_seconds",
    "compile_program",
    "estimate_collectives",
    "flops_of",
    "memory_of",
    "mesh_links",
    "neuron_lint",
    "pareto_front",
    "remat_costs",
    "roofline",
    "saved_bytes",
    "tagged_bytes",
]
