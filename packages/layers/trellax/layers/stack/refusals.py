"""Why a pipeline does not run on a mesh, and what does.

Axes: L layers, M microbatches, P stages, V repeats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from trellax.parallel import RunShape

BATCH_AXES = ("data", "expert", "fsdp")
"""Mesh axes that split the rows of a microbatch."""


def layer_refusal(cfg: Any, stages: int) -> str | None:
    """Returns why the layers and microbatches of a `PipelinedStack.Config` do not fit this many stages."""
    L, M, V = cfg.num_layers, cfg.num_microbatches, cfg.num_repeats
    if stages * V > L:
        best = max(1, L // V)
        return (
            f"num_layers={L} cannot fill pipeline={stages} stages of num_repeats={V} chunks; "
            f"use pipeline={best} or less{', or fewer repeats' if V > 1 else ''}."
        )
    sizes = cfg.layers_per_stage
    if sizes is not None and len(sizes) != stages * V:
        return (
            f"layers_per_stage has {len(sizes)} entries for pipeline={stages} stages of "
            f"num_repeats={V} chunks; give {stages * V}, or None."
        )
    if V > 1 and M % stages:
        lower, upper = M // stages * stages, -(-M // stages) * stages
        return (
            f"num_microbatches={M} go round in groups of pipeline={stages}; "
            f"use {' or '.join(str(m) for m in (lower, upper) if m)}."
        )
    return None


def row_refusal(cfg: Any, run: RunShape) -> str | None:
    """Returns why the rows of a forward pass do not divide into microbatches; None if they do, or are not known."""
    if run.rows is None:
        return None
    M, rows = cfg.num_microbatches, run.rows
    split = num_row_parts(run.axis_sizes)
    if rows % (M * split) == 0:
        return None
    need = f"{rows} rows do not divide into num_microbatches={M} of a multiple of {split} rows ({' · '.join(BATCH_AXES)})"
    step = run.size("pipeline") if cfg.num_repeats > 1 else 1
    fitting = [m for m in range(step, rows // split + 1, step) if rows % (m * split) == 0]
    if fitting:
        return f"{need}; use num_microbatches={_nearest(M, fitting)}."
    return f"{need}; use {-(-rows // (M * split)) * M * split} rows."


def num_row_parts(axis_sizes: Mapping[str, int]) -> int:
    """Returns over how many devices the rows of a microbatch are spread."""
    return math.prod(axis_sizes.get(axis, 1) for axis in BATCH_AXES)


def _nearest(wanted: int, among: Iterable[int]) -> int:
    return min(among, key=lambda m: abs(m - wanted))
