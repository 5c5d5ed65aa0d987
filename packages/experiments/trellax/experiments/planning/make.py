"""Makes plans: traces, compiles and reads the train step of an experiment on some hardware.

plan = make_plan(resolve("llama2_7b_tpu", hardware=hardware_named("tpu-v5p-512")))
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import resource
import time
from typing import Any

from trellax.config import nodes
from trellax.experiments.planning.advice import with_advice
from trellax.experiments.planning.estimates import StepEstimate, forward_passes
from trellax.experiments.planning.memory import memory_report
from trellax.experiments.planning.program import PlannedProgram, planned_program
from trellax.experiments.planning.report import BoundReport, CollectiveReport, FlopReport, Plan
from trellax.experiments.resolve import Resolved
from trellax.layers import count_parameters
from trellax.parallel import RunShape
from trellax.parallel.hardware import compiler_options
from trellax.parallel.planning import (
    Collective,
    CompiledProgram,
    FlopCount,
    StepCosts,
    communication_seconds,
    compile_program,
    flops_of,
    mesh_links,
    neuron_lint,
    roofline,
)
from trellax.runtime import TRAIN_FLOPS_PER_FORWARD_FLOP

_KIB = 1024
"""What `ru_maxrss` counts in, on Linux."""
_SKIPPED_OF_KERNELS = 0.5
_NO_COMPILER = (
    "no compiler for this hardware is published: the program was lowered, not compiled; peak memory, memory traffic and "
    "collectives are estimates"
)


def make_plan(resolved: Resolved, *, save: str | None = None) -> Plan:
    """Returns the plan of a resolved experiment.

    Args:
        resolved: the experiment's config for the hardware.
        save: file to write the compiled step to, if it fits.

    Raises:
        ConfigError, ValueError: if the config is wrong, or does not run on the mesh.
        PlanningUnavailableError: if the compiler for the hardware is not installed.
        OSError: if the file cannot be written.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    planned = planned_program(resolved.cfg, resolved.hardware)
    lowered = planned.lowered  # Where there is no compiler, this finds what cannot be lowered.
    compiled = None
    if planned.has_compiler:
        flags = compiler_options(resolved.hardware)
        compiled = compile_program(lowered, planned.axis_sizes, compiler_options=flags)
    plan = plan_of(planned, compiled, name=resolved.name, rule=resolved.rule_text)
    if save is not None:
        plan = _saved(save, planned, compiled, plan)
    cost = {
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "resident_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB),
    }
    return with_advice(plan).with_cost(cost)


def plan_of(
    planned: PlannedProgram, compiled: CompiledProgram | None, *, name: str, rule: str
) -> Plan:
    """Returns what a program says about itself, without advice.

    Args:
        planned: the program.
        compiled: what the compiler made of it; None where there is none.
        name: of the experiment.
        rule: the mesh rule, for people.
    """
    rows, length = planned.cfg.input.batch_spec()["input_ids"].shape
    links = mesh_links(planned.cfg.mesh_shape, planned.hardware)
    alone = planned.on_one_device()
    count = flops_of(alone.traced.jaxpr)
    flops = _flops(alone, count, rows * length)
    notes: tuple[str, ...]
    if compiled is None:
        hbm_bytes = count.matmul_bytes / planned.hardware.num_devices
        collectives, notes = _estimated_collectives(planned, flops), (_NO_COMPILER,)
    else:
        hbm_bytes, collectives, notes = (
            compiled.matmul_bytes,
            compiled.collectives,
            compiled.notes,
        )
    costs = StepCosts(flops.model, _least_flops(count), hbm_bytes, collectives)
    return Plan(
        experiment=name,
        hardware=planned.hardware.name,
        num_devices=planned.hardware.num_devices,
        rule=rule,
        mesh=planned.axis_sizes,
        across={axis: link.across for axis, link in links.items()},
        rows=rows,
        length=length,
        accumulation_steps=planned.cfg.accumulation_steps,
        num_parameters=count_parameters(planned.program.model.all_parameter_specs()),
        memory=memory_report(planned, compiled),
        flops=flops,
        collectives=tuple(_merged(collectives, planned, links)),
        bound=_bound(planned, costs, links, rows * length),
        findings=tuple(map(str, _findings(planned))),
        notes=notes,
        versions={
            name: _version(name) for name in ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin")
        },
    )


def _saved(
    file: str, planned: PlannedProgram, compiled: CompiledProgram | None, plan: Plan
) -> Plan:
    """Writes the compiled step, or returns the plan with a note why it did not."""
    if plan.fits is False:
        note = f"{file} was not written: the step does not fit."
    elif compiled is None or compiled.executable is None:
        note = f"{file} was not written: nothing was compiled."
    else:
        planned.program.save(file, planned.lowered, compiled.executable)
        return plan
    return dataclasses.replace(plan, notes=(*plan.notes, note))


def _estimated_collectives(planned: PlannedProgram, flops: FlopReport) -> tuple[Collective, ...]:
    cfg = planned.cfg
    return StepEstimate.of(planned).collectives(
        cfg.axis_rules,
        planned.axis_sizes,
        cfg.accumulation_steps,
        forward_passes=forward_passes(flops.recomputed),
    )


def _flops(planned: PlannedProgram, count: FlopCount, tokens: int) -> FlopReport:
    model = planned.program.model
    length = planned.cfg.input.batch_spec()["input_ids"].shape[1]
    of_model = TRAIN_FLOPS_PER_FORWARD_FLOP * model.forward_flops_per_token(length) * tokens
    without = flops_of(without_remat(planned).traced.jaxpr)
    recomputed = 1 - _multiplied(without) / _multiplied(count)
    return FlopReport(of_model, _multiplied(count), max(recomputed, 0.0))


def without_remat(planned: PlannedProgram) -> PlannedProgram:
    """Returns the same program on one device with nothing computed twice."""
    cfg = planned.cfg.clone()
    for _, node in list(nodes(cfg.model)):
        if "remat" in node:
            node.set(remat=None)
    return dataclasses.replace(planned, cfg=cfg).on_one_device()


def _multiplied(count: FlopCount) -> float:
    """Matrix multiplications and kernels: the work that peak FLOP/s are about."""
    return count.matmul + count.kernel


def _least_flops(count: FlopCount) -> dict[str, float]:
    """Returns the FLOPs by type that a step cannot do without.

    Kernels are counted as if nothing were masked; of a causal mask they skip half.
    """
    least = 1 - _SKIPPED_OF_KERNELS * count.kernel / max(_multiplied(count), 1.0)
    return {dtype: flops * least for dtype, flops in count.by_dtype.items()}


def _bound(
    planned: PlannedProgram, costs: StepCosts, links: Any, tokens: int
) -> BoundReport | None:
    line = roofline(costs, planned.hardware, links)
    if line.bound_by is None or line.mfu is None:
        return None
    bubble = idle_fraction(planned)
    parts = {
        part: time / (1 - bubble) if part in ("compute", "hbm") else time
        for part, time in line.terms.items()
    }
    by = max(parts, key=lambda part: parts[part])
    return BoundReport(
        seconds=parts[by],
        by=by,
        parts=parts,
        bubble=bubble,
        mfu=line.mfu * line.seconds / parts[by],
        tokens_per_second=tokens / parts[by],
    )


def idle_fraction(planned: PlannedProgram) -> float:
    """Returns the share of a step in which devices wait for others, as the nodes of the model tell it."""
    rows, length = planned.cfg.input.batch_spec()["input_ids"].shape
    run = RunShape(planned.axis_sizes, rows=rows // planned.cfg.accumulation_steps, length=length)
    asked = (
        node.idle_fraction(run)
        for _, node in nodes(planned.cfg.model)
        if hasattr(node, "idle_fraction")
    )
    return max(asked, default=0.0)


def _merged(
    collectives: tuple[Collective, ...], planned: PlannedProgram, links: Any
) -> list[CollectiveReport]:
    """Returns one line for each kind and axes, the longest first."""
    groups: dict[tuple[str, tuple[str, ...]], list[Collective]] = {}
    for collective in collectives:
        groups.setdefault((collective.kind, collective.axes), []).append(collective)
    lines = []
    for (kind, axes), members in groups.items():
        seconds = communication_seconds(members, planned.hardware, links)
        # Between devices of one chip no time is counted; of groups that are no mesh axes it is not known.
        network = max(seconds, key=lambda name: seconds[name], default="chip" if axes else "?")
        lines.append(
            CollectiveReport(
                kind=kind,
                axes=axes,
                network=network,
                bytes=sum(c.total_bytes for c in members),
                times=sum(c.times for c in members),
                seconds=seconds.get(network),
            )
        )
    return sorted(lines, key=lambda line: -(line.seconds or 0.0))


def _findings(planned: PlannedProgram) -> list[Any]:
    return neuron_lint(planned.traced.jaxpr) if planned.hardware.platform == "neuron" else []


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
