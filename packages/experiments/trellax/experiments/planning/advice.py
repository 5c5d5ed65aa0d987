"""What follows from a plan's numbers: why it does not fit, what bounds it, what would change that.

plan = with_advice(plan)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from trellax.experiments.planning import units
from trellax.experiments.planning.report import BoundReport, Plan

_BATCH_AXES = ("data", "expert", "fsdp")
_MUCH_RECOMPUTED = 0.05
_MUCH_IDLE = 0.1
_ROOM = 0.25
"""Share of the memory from which on it is worth keeping more activations."""
_TIGHT = 0.05
"""Share of the memory below which a fragmented heap may run out."""


def with_advice(plan: Plan) -> Plan:
    """Returns the plan with a line for each thing to look at."""
    lines = [*_memory(plan), *_bound(plan), *_pipeline(plan), *plan.advice]
    return dataclasses.replace(plan, advice=tuple(lines))


def _memory(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    if memory.fits is None or memory.capacity is None:
        return
    if not memory.fits:
        yield from _overflow(plan)
        return
    assert memory.margin is not None
    share = memory.margin / memory.capacity
    if share < _TIGHT:
        yield (
            f"only {units.gib(memory.margin)} of {units.gib(memory.capacity)} are left: expect to run out with other "
            "compiler versions; accumulation_steps or a remat policy that keeps less makes room."
        )
    if share > _ROOM and plan.flops.recomputed > _MUCH_RECOMPUTED:
        yield (
            f"{units.gib(memory.margin)} are free while {units.percent(plan.flops.recomputed)} of the FLOPs are "
            "recomputation: keep more activations (`plan --remat` compares policies)."
        )


def _overflow(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    assert memory.capacity is not None
    if memory.inputs > memory.capacity:
        yield (
            f"the state alone takes {units.gib(memory.inputs)} of {units.gib(memory.capacity)}: split it over more "
            "devices (fsdp, model, pipeline, expert), or take more of them."
        )
        return
    working = memory.working
    room = memory.capacity - memory.inputs
    factor = 2 if working is None else max(2, -(-working // max(room, 1.0)))
    yield (
        f"activations, gradients and gathered weights have {units.gib(room)}"
        + (f" and take {units.gib(working)}" if working is not None else "")
        + f": {_fewer_activations(plan, int(factor))}; `tune` searches for the fastest that fits."
    )


def _fewer_activations(plan: Plan, factor: int) -> str:
    """Says what divides the activations by this factor, as far as the batch can be split."""
    wanted = _next_power(factor) * plan.accumulation_steps
    most = plan.rows // math.prod(plan.mesh.get(axis, 1) for axis in _BATCH_AXES)
    steps = min(wanted, most)
    policy = "a remat policy that keeps less or offloads"
    if steps <= plan.accumulation_steps:
        return (
            "each device has one row at a time already, so split rows over `model` or `seq`, or take "
            f"{policy}"
        )
    return f"accumulation_steps={steps} divides the activations, {policy} does, too"


def _bound(plan: Plan) -> Iterator[str]:
    bound = plan.bound
    if bound is None or bound.by == "compute":
        return
    compute = bound.parts.get("compute", 0.0)
    slower = f"{bound.seconds / compute:.1f} times the compute" if compute else "the longest part"
    if bound.by == "hbm":
        yield f"memory traffic takes {slower}: more tokens a device (fewer devices, or a larger batch) reuse weights more."
    elif bound.by == "network":
        yield _network(plan, bound, slower)
    else:
        yield _links(plan, bound, slower)


def _network(plan: Plan, bound: BoundReport, slower: str) -> str:
    axes = [axis for axis, size in plan.across.items() if size > 1]
    return (
        f"the network between slices or nodes takes {slower}: let only `data` cross it (now {', '.join(axes)}), gather "
        "weights less often (fewer accumulation_steps), or give each device more tokens."
    )


def _links(plan: Plan, bound: BoundReport, slower: str) -> str:
    longest = next((c for c in plan.collectives if c.network == bound.by), None)
    what = f"{longest.kind} over {'+'.join(longest.axes)}" if longest else bound.by
    remedy = {
        "model": "a smaller `model` axis, or sequence-parallel norms (tensor_sequence_rules)",
        "fsdp": "a smaller `fsdp` axis with more `data`, fewer accumulation_steps, or more tokens a device",
        "expert": "a smaller `expert` axis",
        "seq": "a smaller `seq` axis, or another context method",
    }
    axis = longest.axes[-1] if longest and longest.axes else ""
    return f"{what} takes {slower}: {remedy.get(axis, 'another mesh')} would shorten it."


def _pipeline(plan: Plan) -> Iterator[str]:
    if plan.bound is not None and plan.bound.bubble > _MUCH_IDLE:
        yield (
            f"stages wait {units.percent(plan.bound.bubble)} of the time: more microbatches, or the circular schedule, "
            "shrink the bubble."
        )


def _next_power(number: int) -> int:
    return 1 << max(number - 1, 1).bit_length()
