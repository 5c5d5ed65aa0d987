"""The config that a verb looks at: as the recipe has it, or as --hardware and the user want it."""

from __future__ import annotations

from typing import Any

from trellax.config import apply_overrides
from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.registry import get_experiment
from trellax.experiments.resolve import resolve
from trellax.parallel import Hardware, hardware_named


def config_of(arguments: Arguments, name: str) -> Any:
    """Returns the config of an experiment; the mesh rule applies with --hardware.

    Raises:
        UsageError: for hardware that there is not.
    """
    if not arguments.flags.hardware:
        cfg = get_experiment(name)
        apply_overrides(cfg, arguments.overrides)
        return cfg
    (hardware,) = hardware_of(arguments)
    return resolve(name, hardware=hardware, overrides=arguments.overrides).cfg


def hardware_of(arguments: Arguments) -> list[Hardware]:
    """Returns what --hardware names.

    Raises:
        UsageError: for hardware that there is not.
    """
    try:
        return [hardware_named(name) for name in arguments.flags.hardware]
    except ValueError as e:
        raise UsageError(str(e)) from e
