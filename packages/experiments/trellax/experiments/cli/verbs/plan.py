"""`trellax plan NAME --hardware=HW [--hardware=HW ...]`: what the train step needs there, without being there."""

from __future__ import annotations

import dataclasses
import json

from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.cli.configs import hardware_of
from trellax.experiments.planning import (
    Plan,
    make_plan,
    plan_text,
    planned_program,
    plans_html,
    remat_rows,
    remat_text,
)
from trellax.experiments.resolve import resolve
from trellax.parallel import Hardware
from trellax.runtime import write_atomically

EXIT_DOES_NOT_FIT = 3


def run(arguments: Arguments) -> int:
    """Prints a plan for each hardware; exits with 3 if one does not fit."""
    flags = arguments.flags
    if flags.remat:
        return _compare_policies(arguments)
    plans = []
    for hardware in hardware_of(arguments):
        plans.append(_plan(arguments, hardware))
        if not flags.json:
            print(plan_text(plans[-1]), end="\n\n", flush=True)
    if flags.json:
        print(json.dumps([plan.to_dict() for plan in plans], indent=2))
    if flags.html:
        _write(flags.html, plans_html(plans))
    return EXIT_DOES_NOT_FIT if any(plan.fits is False for plan in plans) else 0


def _compare_policies(arguments: Arguments) -> int:
    """Prints what remat policies keep and compute again; nothing is compiled."""
    for hardware in hardware_of(arguments):
        resolved = resolve(arguments.name, hardware=hardware, overrides=arguments.overrides)
        rows = remat_rows(planned_program(resolved.cfg, hardware))
        if arguments.flags.json:
            print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        else:
            print(f"{arguments.name} on {hardware.name}: {remat_text(rows)}\n")
    return 0


def _plan(arguments: Arguments, hardware: Hardware) -> Plan:
    resolved = resolve(arguments.name, hardware=hardware, overrides=arguments.overrides)
    try:
        return make_plan(resolved, save=arguments.flags.save)
    except ValueError as e:
        raise UsageError(str(e)) from e


def _write(file: str, page: str) -> None:
    try:
        write_atomically(file, page)
    except OSError as e:
        raise UsageError(f"{file} cannot be written: {e.strerror}.") from e
