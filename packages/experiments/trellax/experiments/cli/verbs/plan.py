"""`trellax plan NAME --hardware=HW [--hardware=HW ...]`: what the train step needs there, without being there."""

from __future__ import annotations

import dataclasses
import json

from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.cli.configs import hardware_of
from trellax.experiments.cli.files import check_writable, write
from trellax.experiments.planning import (
    Plan,
    RematRow,
    make_plan,
    plan_text,
    planned_program,
    plans_html,
    remat_rows,
    remat_text,
)
from trellax.experiments.resolve import resolve
from trellax.parallel import Hardware

EXIT_DOES_NOT_FIT = 3


def run(arguments: Arguments) -> int:
    """Prints a plan for each hardware; exits with 3 if one does not fit."""
    flags = arguments.flags
    if flags.remat:
        _compare_policies(arguments)
        return 0
    check_writable("html", flags.html)
    check_writable("save", flags.save)
    plans = []
    for hardware in hardware_of(arguments):
        plans.append(_plan(arguments, hardware))
        if not flags.json:
            print(plan_text(plans[-1]), end="\n\n", flush=True)
    if flags.json:
        print(json.dumps([plan.to_dict() for plan in plans], indent=2))
    if flags.html:
        write("html", flags.html, plans_html(plans))
    return EXIT_DOES_NOT_FIT if any(plan.fits is False for plan in plans) else 0


def _compare_policies(arguments: Arguments) -> None:
    """Prints what remat policies keep and compute again; nothing is compiled."""
    sweeps = {hardware.name: _rows(arguments, hardware) for hardware in hardware_of(arguments)}
    if arguments.flags.json:
        as_dicts = [
            {"hardware": name, "policies": [dataclasses.asdict(row) for row in rows]}
            for name, rows in sweeps.items()
        ]
        print(json.dumps(as_dicts, indent=2))
        return
    for name, rows in sweeps.items():
        print(f"{arguments.name} on {name}: {remat_text(rows)}\n")


def _rows(arguments: Arguments, hardware: Hardware) -> list[RematRow]:
    resolved = resolve(arguments.name, hardware=hardware, overrides=arguments.overrides)
    try:
        return remat_rows(planned_program(resolved.cfg, hardware))
    except ValueError as e:
        raise UsageError(str(e)) from e


def _plan(arguments: Arguments, hardware: Hardware) -> Plan:
    resolved = resolve(arguments.name, hardware=hardware, overrides=arguments.overrides)
    try:
        return make_plan(resolved, save=arguments.flags.save)
    except ValueError as e:
        raise UsageError(str(e)) from e
    except OSError as e:
        raise UsageError(f"--save={arguments.flags.save} cannot be written: {e.strerror}.") from e
