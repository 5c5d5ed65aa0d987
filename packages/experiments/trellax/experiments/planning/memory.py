"""The bytes of one device: state by specs and shardings, the rest by the compiler.

memory_report(planned, compiled)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from trellax.experiments.planning.estimates import StepEstimate
from trellax.experiments.planning.program import PlannedProgram
from trellax.experiments.planning.remat import kept_bytes
from trellax.experiments.planning.report import MemoryReport
from trellax.parallel.planning import CompiledProgram


def memory_report(planned: PlannedProgram, compiled: CompiledProgram | None) -> MemoryReport:
    """Returns what a device holds.

    Args:
        planned: the program.
        compiled: what the compiler made of it; None where there is none.
    """
    state = state_bytes(planned)
    inputs = sum(state.values()) + _device_bytes(planned.program.abstract_batch())
    use = None if compiled is None else compiled.memory
    report = MemoryReport(
        capacity=planned.hardware.usable_hbm_bytes_per_device,
        parameters=state["params"],
        optimizer=state["learner"],
        inputs=inputs,
        temporary=None,
        peak=None,
        host=0.0,
        source="not known",
    )
    if compiled is None:
        return _estimated(planned, report)
    if use is None:  # It does not fit, and the compiler said how much it would need.
        needed = compiled.overflow_bytes
        peak = None if needed is None else max(needed, inputs)
        return dataclasses.replace(
            report, temporary=needed, peak=peak, source="where the compiler gave up", overflows=True
        )
    return dataclasses.replace(
        report,
        inputs=use.argument_bytes,
        temporary=use.temporary_bytes,
        peak=use.peak_bytes,
        host=use.host_bytes,
        source="by the compiler",
    )


def _estimated(planned: PlannedProgram, report: MemoryReport) -> MemoryReport:
    """Returns the report with a peak by arithmetic; activations count as if split over all devices."""
    cfg = planned.cfg
    fixed = StepEstimate.of(planned).fixed_bytes(
        cfg.axis_rules, planned.axis_sizes, cfg.accumulation_steps
    )
    on_device, on_host = kept_bytes(planned)
    source = "estimated: state, gradients, gathered layers, saved activations"
    return dataclasses.replace(report, peak=fixed + on_device, host=on_host, source=source)


def state_bytes(planned: PlannedProgram) -> dict[str, float]:
    """Returns {"params", "learner", ...: bytes of a device}: the parts of the train state."""
    state = planned.program.placement.abstract(planned.program.state_specs())
    return {name: _device_bytes(part) for name, part in state.items()}


def _device_bytes(tree: Any) -> float:
    return float(sum(_shard_bytes(x) for x in jax.tree.leaves(tree)))


def _shard_bytes(x: jax.ShapeDtypeStruct) -> int:
    shape = x.sharding.shard_shape(x.shape) if x.sharding is not None else x.shape
    return math.prod(shape) * np.dtype(x.dtype).itemsize
