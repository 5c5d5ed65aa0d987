"""`trellax diff NAME OTHER`, or `trellax diff NAME path=value …`: how two configs differ."""

from __future__ import annotations

import sys

from trellax.config import diff, format_diff
from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.cli.configs import config_of
from trellax.experiments.registry import get_experiment


def run(arguments: Arguments) -> int:
    """Prints the changes from the first experiment to the second, or to the changed one."""
    if arguments.other:
        before, after = config_of(arguments, arguments.name), config_of(arguments, arguments.other)
    elif arguments.overrides or arguments.flags.hardware:
        before, after = get_experiment(arguments.name), config_of(arguments, arguments.name)
    else:
        raise UsageError("`diff` needs a second experiment, --hardware or path=value.")
    changes = diff(before, after)
    print(format_diff(changes, color=sys.stdout.isatty(), width=70) or "No differences.")
    return 0
