"""What a verb that serves was asked to serve: published weights, or a run's checkpoint."""

from __future__ import annotations

from typing import Any

from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.cli.checkpoints import open_trainer, restored
from trellax.experiments.drafting import draft_speculation
from trellax.experiments.serving import (
    Served,
    engine_config,
    served_run,
    served_weights,
    split_overrides,
)
from trellax.parallel import detect_hardware


def opened(arguments: Arguments, *, max_sequences: int | None = None) -> tuple[Served, Any]:
    """Returns (the model, the engine's config). No parameters are read yet.

    Args:
        arguments: of the command line.
        max_sequences: that the verb runs at once, if it runs few: no more programs are compiled than it needs.

    Raises:
        UsageError: both kinds are asked for.
        ConfigError, WeightsError, RunFolderError: as they say.
    """
    flags = arguments.flags
    engine, others = split_overrides(arguments.overrides)
    if max_sequences is not None:
        engine = [f"max_sequences={max_sequences}", "warms_up=false", *engine]
    if flags.weights and (flags.dir or flags.step is not None):
        raise UsageError("--weights serves published files, --dir a run's checkpoint: name one.")
    if flags.weights and others:
        raise UsageError(
            f"{others[0]!r}: with --weights only fields of the engine can be set, as engine.max_sequences=8."
        )
    if flags.weights:
        served = served_weights(arguments.name, flags.weights, name=flags.model_name)
    else:
        trainer = open_trainer(arguments, overrides=others)
        load_fn = lambda: restored(arguments, trainer)[1]
        served = served_run(trainer, load_fn, name=flags.model_name or arguments.name)
    speculation = None
    if flags.draft_weights:
        experiment = flags.draft_experiment or arguments.name
        speculation = draft_speculation(served, flags.draft_weights, experiment=experiment)
    return served, engine_config(detect_hardware(), served, engine, speculation=speculation)
