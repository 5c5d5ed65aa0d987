"""A plan as text, for a terminal.

print(plan_text(plan))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trellax.experiments.planning import units
from trellax.experiments.planning.report import Plan


def plan_text(plan: Plan) -> str:
    """Returns the plan as lines that a terminal shows."""
    sections = [
        _head(plan),
        _section("memory of a device", _memory(plan)),
        _section("collectives of a step, a device", _collectives(plan)),
        _section("work and time of a step", _time(plan)),
        _section("limits of the platform that this breaks", _listed(plan.findings)),
        _section("advice", _listed(plan.advice)),
        _section("notes", _listed(plan.notes)),
    ]
    return "\n".join(section for section in sections if section)


def mesh_text(plan: Plan) -> str:
    """Returns the mesh's sizes, and which of them cross slices or nodes."""
    sizes = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1)
    across = ", ".join(f"{axis}={size}" for axis, size in plan.across.items() if size > 1)
    return (sizes or "one device") + (
        f" (of which across slices or nodes: {across})" if across else ""
    )


def verdict(plan: Plan) -> str:
    """Returns whether the step fits, in a few words."""
    memory = plan.memory
    if memory.fits is None:
        return "not known whether it fits"
    by_estimate = " by an estimate" if memory.source.startswith("estimated") else ""
    margin = memory.margin
    if memory.fits:
        assert margin is not None
        return f"fits{by_estimate}, {units.gib(margin)} to spare"
    too_much = f", {units.gib(-margin)} too much" if margin is not None and margin < 0 else ""
    return f"DOES NOT FIT{by_estimate}{too_much}"


def _head(plan: Plan) -> str:
    rows = [
        ("hardware", f"{plan.hardware}, {plan.num_devices:,} device{'s' * (plan.num_devices > 1)}"),
        ("mesh rule", plan.rule),
        ("mesh", mesh_text(plan)),
        ("parameters", f"{plan.num_parameters:,}"),
        (
            "batch",
            f"{plan.rows:,} x {plan.length:,} = {plan.rows * plan.length:,} tokens"
            + (f", in {plan.accumulation_steps} parts" if plan.accumulation_steps > 1 else ""),
        ),
        ("verdict", verdict(plan)),
    ]
    return f"{plan.experiment}\n" + "\n".join(units.aligned(rows))


def _memory(plan: Plan) -> list[str]:
    memory = plan.memory
    rows = [
        ("parameters", units.gib(memory.parameters)),
        ("optimizer state", units.gib(memory.optimizer)),
        ("all arguments", units.gib(memory.inputs)),
        ("activations, gradients, gathered weights", units.gib(memory.working)),
        ("peak", f"{units.gib(memory.peak)} ({memory.source})"),
        ("usable HBM", units.gib(memory.capacity)),
    ]
    if memory.host:
        rows.append(("offloaded to the host", units.gib(memory.host)))
    return units.aligned(rows)


def _collectives(plan: Plan) -> Iterator[str]:
    if not plan.collectives:
        return
    rows = [("kind", "mesh axes", "network", "bytes", "times", "at least")]
    for c in plan.collectives:
        axes = "+".join(c.axes) or "(other groups)"
        numbers = (units.size(c.bytes), f"{c.times:,}", units.seconds(c.seconds))
        rows.append((c.kind, axes, c.network, *numbers))
    yield from units.aligned(rows, right=(3, 4, 5))


def _time(plan: Plan) -> list[str]:
    flops = plan.flops
    rows = [
        ("model FLOPs", units.flops(flops.model)),
        (
            "executed FLOPs",
            f"{units.flops(flops.executed)}, of which recomputed {units.percent(flops.recomputed)}",
        ),
    ]
    if plan.bound is not None:
        bound = plan.bound
        rows += [(f"time for {part}", units.seconds(time)) for part, time in bound.parts.items()]
        if bound.bubble:
            rows.append(("pipeline bubble", units.percent(bound.bubble)))
        rows += [
            ("lower bound of the step", f"{units.seconds(bound.seconds)}, by {bound.by}"),
            (
                "at that bound",
                f"MFU {units.percent(bound.mfu)}, {bound.tokens_per_second:,.0f} tokens/s",
            ),
        ]
    if plan.cost:
        rows.append(
            (
                "this plan took",
                f"{plan.cost['cpu_seconds']:.0f} CPU s, {units.gib(plan.cost['resident_bytes'])}",
            )
        )
    return units.aligned(rows)


def _section(title: str, lines: Iterable[str]) -> str:
    body = "\n".join(lines)
    return f"\n{title}\n{body}" if body else ""


def _listed(lines: Iterable[str]) -> Iterator[str]:
    return (f"  - {line}" for line in lines)
