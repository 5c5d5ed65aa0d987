"""Memory of a compiled program, per device.

memory_of(jax.jit(step).lower(*args).compile()).peak_bytes
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class MemoryUse:
    """Bytes of one device's memory, and of its host's for what is offloaded.

    Arguments and results that share memory (donated ones) are in both `argument_bytes` and `output_bytes`; `alias_bytes`
    says how much.
    """

    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temporary_bytes: int
    """Buffers that are neither arguments nor results. Compilers differ in what they count, so do not add them up."""
    code_bytes: int
    host_bytes: int
    """Memory of the host that the program's arguments, results and temporaries take."""
    allocated_bytes: int | None
    """All buffers of the program as the compiler lays them out; None where it does not say (before JAX 0.11)."""

    @property
    def peak_bytes(self) -> int:
        """What must fit into the device's memory: the compiler's total, or else arguments, results (aliased ones once) and temporaries."""
        if self.allocated_bytes is not None:
            return self.allocated_bytes
        return self.argument_bytes + self.output_bytes - self.alias_bytes + self.temporary_bytes


def memory_of(executable: Any) -> MemoryUse:
    """Returns the memory that a compiled program takes of each device.

    Args:
        executable: what `jax.stages.Lowered.compile()` returns.

    Raises:
        ValueError: if the compiler reports nothing about memory.
    """
    stats = executable.memory_analysis()
    if stats is None:
        raise ValueError(
            "The compiler of this platform reports no memory; compile for tpu, gpu or cpu."
        )
    host = ("host_argument", "host_output", "host_temp")
    aliased = getattr(stats, "host_alias_size_in_bytes", 0)
    return MemoryUse(
        argument_bytes=stats.argument_size_in_bytes,
        output_bytes=stats.output_size_in_bytes,
        alias_bytes=stats.alias_size_in_bytes,
        temporary_bytes=stats.temp_size_in_bytes,
        code_bytes=stats.generated_code_size_in_bytes,
        host_bytes=sum(getattr(stats, f"{part}_size_in_bytes", 0) for part in host) - aliased,
        allocated_bytes=getattr(stats, "total_allocation_bytes", 0) or None,
    )
