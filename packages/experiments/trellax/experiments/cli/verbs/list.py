"""`trellax list`: names the experiments."""

from __future__ import annotations

from trellax.experiments.cli.arguments import Arguments
from trellax.experiments.registry import experiment_names, recipe_summary


def run(arguments: Arguments) -> int:
    """Prints each registered experiment with its one-line summary."""
    width = max(map(len, experiment_names()))
    for name in experiment_names():
        print(f"{name:<{width}}  {recipe_summary(name)}")
    return 0
