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
    ]
    return "\n".join(section for section in sections if section)


def mesh_text(plan: Plan) -> str:
    """Returns the mesh's sizes, and which of them cross slices or nodes."""
    sizes = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1)
    across = ", ".join(f"{axis}={size}" for axis, size in plan.across.items() if size > 1)
    return (sizes or "one device") + (f" (of which across slices or nodes: {across})" if across else "")


def verdict(plan: Plan) -> str:
    """Returns whether the step fits, in a few words."""
    memory = plan.memory
    if memory.fits is None:
        return "not known whether it fits"
    if memory.peak is None or memory.margin is None:
        return "DOES NOT FIT"
    if memory.fits:
        return f"fits, {units.gib(memory.margin)} to spare"
    return f"DOES NOT FIT, {units.gib(-memory.margin)} too much"


def _head(plan: Plan) -> str:
    rows = [
        ("hardware", f"{plan.hardware}, {plan.num_devices:,} devices"),
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
    return f"{plan.experiment}\n" + "\n".join(_aligned(rows))


def _memory(plan: Plan) -> Iterator[str]:
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
    return _aligned(rows)


def _collectives(plan: Plan) -> Iterator[str]:
    if not plan.collectives:
        return
    yield f"  {'kind':<15}{'mesh axes':<22}{'network':<10}{'bytes':>12}{'times':>8}{'at least':>12}"
    for c in plan.collectives:
        axes = "+".join(c.axes) or "(other groups)"
        yield (
            f"  {c.kind:<15}{axes:<22}{c.network:<10}{units.size(c.bytes):>12}{c.times:>8,}"
            f"{units.seconds(c.seconds):>12}"
        )


def _time(plan: Plan) -> Iterator[str]:
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
            ("this plan took", f"{plan.cost['cpu_seconds']:.0f} CPU s, {units.gib(plan.cost['resident_bytes'])}")
        )
    return _aligned(rows)


def _section(title: str, lines: Iterable[str]) -> str:
    body = "\n".join(lines)
    return f"\n{title}\n{body}" if body else ""


def _listed(lines: Iterable[str]) -> Iterator[str]:
    return (f"  - {line}" for line in lines)


def _aligned(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    rows = list(rows)
    width = max(len(name) for name, _ in rows) + 2
    return (f"  {name:<{width}}{value}" for name, value in rows)
