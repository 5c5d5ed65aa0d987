"""Choosing the step to restore: the newest whose files are what was saved.

step, damaged = newest_good(steps, fits=lambda step: None)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import jax

from trellax.runtime.checkpoint import checksums, manifest
from trellax.runtime.checkpoint.errors import (
    CheckpointDamagedError,
    CheckpointNotFoundError,
    DamagedCheckpointWarning,
)
from trellax.runtime.checkpoint.processes import same_everywhere, true_everywhere
from trellax.runtime.checkpoint.steps import StepFolder


def find_step(
    steps: StepFolder, step: int | None, *, fits: Callable[[int], None]
) -> tuple[int, list[int]] | None:
    """Finds the step to read: `step`, or the newest good one.

    Args:
        steps: where to look.
        step: the one to read, or None for the newest that is not damaged.
        fits: raises if a step, whose manifest is good, is not what the caller asks for. It is
            called before any large file is read.

    Returns:
        (step, damaged steps that were passed over), or None where no step was ever saved.

    Raises:
        CheckpointNotFoundError: if `step` is not there.
        CheckpointDamagedError: if `step` is damaged, or all steps are.
    """
    if step is not None:
        return _exactly(steps, step, fits), []
    damaged: dict[int, str] = {}
    for candidate in _candidates(steps):
        problem = _problem(steps, candidate, fits)
        if not problem:
            return candidate, list(damaged)
        damaged[candidate] = problem
        warnings.warn(
            _passed_over(steps, candidate, problem), DamagedCheckpointWarning, stacklevel=4
        )
    if damaged:
        raise CheckpointDamagedError(
            f"Every checkpoint in {steps.root} is damaged:{_lines(damaged)}\nRepair the files or "
            f"copy a good step there; to start anew, choose another folder or remove this one."
        )
    return None


def _exactly(steps: StepFolder, step: int, fits: Callable[[int], None]) -> int:
    if step not in steps.present():
        raise CheckpointNotFoundError(
            f"No step {step} in {steps.root}. Steps there: {steps.complete() or 'none'}."
        )
    problem = _problem(steps, step, fits)
    if problem:
        raise CheckpointDamagedError(
            f"Step {step} in {steps.root} is damaged: {problem}. Leave the step open to use the "
            f"newest good one."
        )
    return step


def _candidates(steps: StepFolder) -> list[int]:
    """Returns the steps from the newest to the oldest, as the first process sees them."""
    mine = steps.present()[::-1]
    if jax.process_count() == 1:
        return mine
    count = same_everywhere(len(mine))
    mine = (mine + [0] * count)[:count]
    return [same_everywhere(step) for step in mine]


def _problem(steps: StepFolder, step: int, fits: Callable[[int], None]) -> str:
    """Returns what is damaged; each process looks at its share of the files."""
    folder = steps.path(step)
    found = checksums.find_damage(folder, only=[manifest.FILENAME])
    if true_everywhere(not found):
        fits(step)
        share = (jax.process_index(), jax.process_count())
        found = checksums.find_damage(folder, share=share)
        if true_everywhere(not found):
            return ""
    return "; ".join(found) or "see the other processes' messages"


def _passed_over(steps: StepFolder, step: int, problem: str) -> str:
    return f"Checkpoint step {step} in {steps.root} is damaged and passed over: {problem}"


def _lines(damaged: dict[int, str]) -> str:
    return "".join(f"\n  step {step}: {problem}" for step, problem in damaged.items())
