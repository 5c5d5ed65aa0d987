"""A run's trainer and parameters, for verbs that read checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trellax.config import apply_overrides, finalize
from trellax.experiments.cli.arguments import Arguments
from trellax.experiments.registry import get_experiment
from trellax.experiments.run_folder import RunFolder
from trellax.parallel import MeshShape
from trellax.runtime import CheckpointNotFoundError
from trellax.runtime.input import use_text


def run_folder(arguments: Arguments) -> RunFolder:
    """Returns the folder that was named, or else has the experiment's name."""
    return RunFolder(arguments.flags.dir or f"runs/{arguments.name.replace(':', '.')}")


def open_run(
    arguments: Arguments, *, overrides: Sequence[str] | None = None
) -> tuple[Any, int, Any]:
    """Returns (trainer, step, parameters to evaluate) of a run's checkpoint, on the devices here.

    Args:
        arguments: of the command line.
        overrides: of the run's config; None for all that were typed.

    Raises:
        RunFolderError: if the folder holds no run.
        CheckpointNotFoundError: if it holds no checkpoint.
    """
    trainer = open_trainer(arguments, overrides=overrides)
    return trainer, *restored(arguments, trainer)


def open_trainer(arguments: Arguments, *, overrides: Sequence[str] | None = None) -> Any:
    """Returns the trainer of a run, on the devices here; as `open_run`."""
    get_experiment(arguments.name)  # The name is right, and its package is one to import from.
    folder = run_folder(arguments)
    cfg = folder.config(trusted=[arguments.name.partition(":")[0].partition(".")[0]])
    cfg.set(mesh_shape=MeshShape(fsdp=-1))  # These need not be the devices that it was trained on.
    if arguments.flags.text:
        use_text(cfg, arguments.flags.text)
    apply_overrides(cfg, arguments.overrides if overrides is None else overrides)
    return finalize(cfg).instantiate(directory=str(folder.path))


def restored(arguments: Arguments, trainer: Any) -> tuple[int, Any]:
    """Returns (step, parameters to evaluate) of a run's checkpoint; as `open_run`."""
    found = trainer.restore(arguments.flags.step)
    if found is None:
        raise CheckpointNotFoundError(f"No checkpoint in {run_folder(arguments).checkpoints}.")
    step, state = found
    return step, trainer.evaluation_params(state)
