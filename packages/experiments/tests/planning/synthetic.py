"""A plan made by hand, to vary: 4 devices of 16 GiB, half full, bound by compute.

plan = synthetic_plan(memory={"peak": 20 * GIB}, accumulation_steps=2)
"""

from __future__ import annotations

import dataclasses
from typing import Any

from trellax.experiments.planning.report import (
    BoundReport,
    CollectiveReport,
    FlopReport,
    MemoryReport,
    Plan,
)
from trellax.experiments.planning.units import GIB

MEMORY = MemoryReport(
    capacity=16.0 * GIB,
    parameters=1.0 * GIB,
    optimizer=2.0 * GIB,
    inputs=3.5 * GIB,
    temporary=5.0 * GIB,
    peak=8.0 * GIB,
    host=0.0,
    source="by the compiler",
)
GATHER = CollectiveReport("all-gather", ("fsdp",), "ici:fsdp", 3.0 * GIB, 12, 0.25)
REDUCE = CollectiveReport("all-reduce", ("data",), "network", 0.5 * GIB, 1, 0.125)
BOUND = BoundReport(
    seconds=1.0,
    by="compute",
    parts={"compute": 1.0, "hbm": 0.5, "ici:fsdp": 0.25, "network": 0.125},
    bubble=0.0,
    mfu=0.75,
    tokens_per_second=65536.0,
)
PLAN = Plan(
    experiment="a_model",
    hardware="tpu-v5e-4",
    num_devices=4,
    rule="'tpu-.*': by hand",
    mesh={"data": 2, "expert": 1, "fsdp": 2, "model": 1},
    across={"data": 2, "expert": 1, "fsdp": 1, "model": 1},
    rows=64,
    length=1024,
    accumulation_steps=1,
    num_parameters=1_234_567,
    memory=MEMORY,
    flops=FlopReport(model=3e15, executed=4e15, recomputed=0.0),
    collectives=(GATHER, REDUCE),
    bound=BOUND,
    cost={"wall_seconds": 3.0, "cpu_seconds": 2.0, "resident_bytes": 1.0 * GIB},
    versions={"jax": "0"},
)


def synthetic_plan(
    memory: dict[str, Any] | None = None,
    flops: dict[str, Any] | None = None,
    bound: dict[str, Any] | None = {},  # noqa: B006  Not changed; None is a plan without a bound.
    **changes: Any,
) -> Plan:
    """Returns the plan with other values: of its memory, FLOPs and bound by their fields, and of itself."""
    parts = {
        "memory": dataclasses.replace(PLAN.memory, **memory or {}),
        "flops": dataclasses.replace(PLAN.flops, **flops or {}),
        "bound": None if bound is None else dataclasses.replace(BOUND, **bound),
    }
    return dataclasses.replace(PLAN, **{**parts, **changes})
