"""`trellax eval NAME --dir=RUN`: evaluates a run's checkpoint on its held-out text, or on --text."""

from __future__ import annotations

from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.cli.checkpoints import open_run


def run(arguments: Arguments) -> int:
    """Prints each metric on a line of its own, the checkpoint's step first."""
    trainer, step, params = open_run(arguments)
    if not trainer.evaluators:
        raise UsageError(f"{arguments.name} has no evaluators; add one to its config.")
    print(f"step {step}")
    for name, value in trainer.evaluate(params).items():
        print(f"{name} {value:.6g}")
    return 0
