"""Reading a checkpoint without a trainer, for evaluation, generation and serving.

params = load_checkpoint(run / "checkpoints", prefix="params")
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trellax.runtime.checkpoint.arrays import HostArray, read_arrays
from trellax.runtime.checkpoint.damage import find_step
from trellax.runtime.checkpoint.errors import CheckpointMismatchError, CheckpointNotFoundError
from trellax.runtime.checkpoint.manifest import (
    ArrayInfo,
    Manifest,
    differences,
    join,
    named_leaves,
    subtree,
)
from trellax.runtime.checkpoint.steps import StepFolder


def load_checkpoint(
    directory: str | os.PathLike[str],
    step: int | None = None,
    prefix: str = "params",
    *,
    target: Any = None,
) -> Any:
    """Reads a part of a checkpoint; changes nothing in the folder.

    Args:
        directory: the folder of checkpoints.
        step: which one; None for the newest that is not damaged.
        prefix: path of the subtree to read ("" is everything).
        target: what the subtree must be, as a tree of `ShapeDtypeStruct` with shardings, so that
            a large model goes straight to its devices. None takes what is there to the host.

    Returns:
        A tree like `target`, or nested dictionaries of numpy arrays.

    Raises:
        CheckpointNotFoundError: if there is no such step, or nothing below `prefix`.
        CheckpointMismatchError: listing all differences from `target`, before anything is read.
        CheckpointDamagedError: if the step, or every step, is damaged.
    """
    steps = StepFolder(Path(directory))
    wanted = None if target is None else named_leaves(target)

    def fits(candidate: int) -> None:
        saved = _saved_below(steps, candidate, prefix)
        if wanted is not None:
            check_same(steps, candidate, saved, wanted.infos, prefix)

    found = find_step(steps, step, fits=fits)
    if found is None:
        raise CheckpointNotFoundError(f"No checkpoint in {steps.root}.")
    if wanted is not None:
        return wanted.unflatten(read_step(steps, found[0], wanted.leaves, prefix))
    saved = _saved_below(steps, found[0], prefix)
    likes = {path: HostArray(info.shape, info.dtype) for path, info in saved.items()}
    return _nested(saved, read_step(steps, found[0], likes, prefix))


def read_manifest(directory: str | os.PathLike[str], step: int | None = None) -> Manifest:
    """Reads what a step holds (paths, shapes, dtypes, extra values) and none of its arrays.

    Args:
        directory: the folder of checkpoints.
        step: which one; None for the newest.

    Raises:
        CheckpointNotFoundError: if there is no such step.
    """
    steps = StepFolder(Path(directory))
    complete = steps.complete()
    if step is None and complete:
        step = complete[-1]
    if step is None or step not in complete:
        raise CheckpointNotFoundError(
            f"No step {step or ''} in {steps.root}. Steps there: {complete or 'none'}."
        )
    return Manifest.read(steps.path(step))


def read_step(
    steps: StepFolder, step: int, likes: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Reads arrays of a step whose paths begin at `prefix`; see `read_arrays`."""
    full = {join(prefix, path): like for path, like in likes.items()}
    found = read_arrays(steps.arrays(step), full)
    return {path: found[join(prefix, path)] for path in likes}


def check_same(
    steps: StepFolder,
    step: int,
    saved: Mapping[str, ArrayInfo],
    wanted: Mapping[str, ArrayInfo],
    prefix: str = "",
) -> None:
    """Raises `CheckpointMismatchError` with all differences, if there are any."""
    lines = differences(saved, wanted)
    if lines:
        count = "1 difference" if len(lines) == 1 else f"{len(lines)} differences"
        below = f" below {prefix!r}" if prefix else ""
        raise CheckpointMismatchError(
            f"Step {step} in {steps.root} is not what is asked for{below}; {count}:\n  "
            + "\n  ".join(lines)
            + "\nUse the config that the run was started with, or another folder."
        )


def _saved_below(steps: StepFolder, step: int, prefix: str) -> dict[str, ArrayInfo]:
    arrays = Manifest.read(steps.path(step)).arrays
    saved = subtree(arrays, prefix)
    if not saved:
        tops = sorted({str(info.keys[0]) for info in arrays.values() if info.keys})
        raise CheckpointNotFoundError(
            f"Step {step} in {steps.root} has nothing at {prefix!r}. At its top: {', '.join(tops)}."
        )
    return saved


def _nested(saved: Mapping[str, ArrayInfo], arrays: Mapping[str, Any]) -> Any:
    root: dict[Any, Any] = {}
    for path, info in saved.items():
        if not info.keys:
            return arrays[path]
        node = root
        for key in info.keys[:-1]:
            node = node.setdefault(key, {})
        node[info.keys[-1]] = arrays[path]
    return root
