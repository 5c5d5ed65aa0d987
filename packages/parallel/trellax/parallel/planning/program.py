"""Compiling a program and reading what it needs: memory, collectives, matrix multiplications per device.

program = compile_program(jax.jit(step).lower(*args), mesh)
program.memory.peak_bytes, program.collectives
"""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trellax.parallel.planning.collectives import Collective, collectives_in
from trellax.parallel.planning.hlo_text import Visit, parse_hlo, unbounded_loops, visits
from trellax.parallel.planning.memory import MemoryUse, memory_of


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A program compiled for a mesh, and what it needs."""

    executable: Any
    """`jax.stages.Compiled`."""
    memory: MemoryUse
    collectives: tuple[Collective, ...]
    matmul_flops: float
    """Of one device, copies of the same work on several devices included; without those of kernels (custom calls)."""
    matmul_bytes: float
    """Operands and results of one device's matrix multiplications: what they would read and write if nothing stayed in a cache."""
    unbounded_loops: tuple[str, ...]
    """Loops whose number of runs is not known before they run; collectives and matmuls in them count once."""
    notes: tuple[str, ...]
    """What could not be found out exactly, and why."""


def compile_program(
    lowered: Any,
    axis_sizes: Mapping[str, int],
    *,
    compiler_options: Mapping[str, Any] | None = None,
) -> CompiledProgram:
    """Compiles a lowered program and reads what it needs.

    XLA writes the module down as its partitioner leaves it (to a temporary folder), which is where collectives are read:
    see `collectives.py`.

    Args:
        lowered: `jax.jit(step).lower(*args)`, for devices that are here or not (`aot_devices`).
        axis_sizes: `mesh.shape` of the mesh that its shardings are over.
        compiler_options: further options of XLA, such as {"xla_tpu_scoped_vmem_limit_kib": 65536}.
    """
    with tempfile.TemporaryDirectory() as folder:
        dump = {
            "xla_dump_to": folder,
            "xla_dump_hlo_pass_re": ".*spmd-partitioning.*",
            "xla_dump_hlo_as_text": True,
        }
        executable = lowered.compile(compiler_options={**(compiler_options or {}), **dump})
        written = sorted(Path(folder).glob("*.after_*spmd-partitioning.before_*.txt"))
        text = written[-1].read_text() if written else None
    notes = []
    if text is None:  # One device: there is nothing to partition.
        text = executable.as_text()
        if math.prod(axis_sizes.values()) > 1:
            notes.append(
                "XLA wrote no partitioned module; collectives are those of the optimized one, which may hide some."
            )
    module = parse_hlo(text)
    return CompiledProgram(
        executable=executable,
        memory=memory_of(executable),
        collectives=collectives_in(module, axis_sizes),
        matmul_flops=sum(visit.times * _matmul_flops(visit) for visit in visits(module)),
        matmul_bytes=sum(visit.times * _matmul_bytes(visit) for visit in visits(module)),
        unbounded_loops=tuple(loop.op_name or loop.name for loop in unbounded_loops(module)),
        notes=tuple(notes),
    )


def _matmul_flops(visit: Visit) -> float:
    if visit.instruction.opcode != "dot":
        return 0.0
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", visit.instruction.attributes)
    dims = [int(dim) for dim in contracted[1].split(",") if dim] if contracted else []
    left = visit.operand_shape(0)
    return 2.0 * visit.instruction.shapes[0].size * math.prod(left.dims[dim] for dim in dims)


def _matmul_bytes(visit: Visit) -> float:
    if visit.instruction.opcode != "dot":
        return 0.0
    return visit.instruction.bytes + visit.operand_shape(0).bytes + visit.operand_shape(1).bytes
