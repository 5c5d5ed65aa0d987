"""Compiling a program and reading what it needs: memory, collectives, matrix multiplications per device.

program = compile_program(jax.jit(step).lower(*args), mesh)
program.memory.peak_bytes, program.collectives
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trellax.parallel.planning.collectives import Collective, collectives_in
from trellax.parallel.planning.hlo_text import Visit, parse_hlo, unbounded_loops, visits
from trellax.parallel.planning.memory import MemoryUse, memory_of

_OUT_OF_MEMORY = r"ran out of memory.*hbm|CompileTimeHbmOom"
_NEEDED = r"temporaries \(([\d.]+)([KMGT])\) exceeds|Used ([\d.]+)([KMGT]) of"
"""What libtpu says where a program does not fit: of temporaries alone if they are too many, else of everything."""
_UNITS = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A program compiled for a mesh, and what it needs."""

    executable: Any | None
    """`jax.stages.Compiled`; None where the compiler found that the program does not fit into the device's memory."""
    memory: MemoryUse | None
    """None where there is no executable."""
    overflow_bytes: float | None
    """Where there is none, what the compiler said that would be needed; None if it did not say."""
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
        executable, overflow = _compiled(lowered, {**(compiler_options or {}), **dump})
        written = sorted(Path(folder).glob("*.after_*spmd-partitioning.before_*.txt"))
        text = written[-1].read_text() if written else None
    notes = []
    if text is None:  # One device: there is nothing to partition.
        text = lowered.as_text(dialect="hlo")
        if math.prod(axis_sizes.values()) > 1:
            notes.append(
                "XLA wrote no partitioned module, so collectives and matmuls per device are not known."
            )
    module = parse_hlo(text)
    return CompiledProgram(
        executable=executable,
        memory=None if executable is None else memory_of(executable),
        overflow_bytes=overflow,
        collectives=collectives_in(module, axis_sizes),
        matmul_flops=sum(visit.times * _matmul_flops(visit) for visit in visits(module)),
        matmul_bytes=sum(visit.times * _matmul_bytes(visit) for visit in visits(module)),
        unbounded_loops=tuple(loop.op_name or loop.name for loop in unbounded_loops(module)),
        notes=tuple(notes),
    )


def _compiled(lowered: Any, options: Mapping[str, Any]) -> tuple[Any, float | None]:
    """Returns the executable, or None and the bytes that the compiler found too many."""
    import jax

    try:
        with _without_cache():
            return lowered.compile(compiler_options=dict(options)), None
    except jax.errors.JaxRuntimeError as e:
        message = str(e)
        if not re.search(_OUT_OF_MEMORY, message, re.IGNORECASE):
            raise
        needed = re.search(_NEEDED, message, re.IGNORECASE)
        number, unit = (needed[1] or needed[3], needed[2] or needed[4]) if needed else ("", "")
        return None, float(number) * _UNITS[unit.upper()] if needed else None


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Switches JAX's persistent cache off: what it holds would not be partitioned again, so that nothing could be read, and
    programs for other machines cannot be loaded from it."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    setting = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # The setting is read once, by the first compilation.
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", setting)
        compilation_cache.reset_cache()


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
