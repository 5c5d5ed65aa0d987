"""`trellax tune NAME --hardware=HW`: searches for the fastest mesh, accumulation and remat that fit, as a mesh rule."""

from __future__ import annotations

import json
import sys

from trellax.config import to_python
from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.cli.configs import hardware_of
from trellax.experiments.cli.files import check_writable, write
from trellax.experiments.cli.verbs.plan import EXIT_DOES_NOT_FIT
from trellax.experiments.planning import Plan, Tuned, mesh_text, tune, tuned_text, verdict
from trellax.experiments.resolve import resolve


def run(arguments: Arguments) -> int:
    """Prints what was tried and the best as a mesh rule; exits with 3 if nothing fits."""
    flags = arguments.flags
    check_writable("output", flags.output)
    (hardware,) = hardware_of(arguments)
    if hardware.usable_hbm_bytes_per_device is None:
        raise UsageError(
            f"`tune` needs to know the memory and the speed of the hardware, and of {hardware.name} they are not known."
        )
    resolved = resolve(arguments.name, hardware=hardware, overrides=arguments.overrides)
    try:
        tuned = tune(resolved, num_candidates=flags.candidates, on_plan=_tell)
    except ValueError as e:
        raise UsageError(str(e)) from e
    print(_json(tuned) if flags.json else _text(tuned))
    if flags.output and tuned.rule is not None:
        write("output", flags.output, to_python(tuned.rule))
    elif flags.output:
        print(f"trellax: {flags.output} was not written: there is no new rule.", file=sys.stderr)
    return EXIT_DOES_NOT_FIT if tuned.best is None else 0


def _tell(plan: Plan) -> None:
    print(f"planned: {mesh_text(plan)}: {verdict(plan)}", file=sys.stderr, flush=True)


def _text(tuned: Tuned) -> str:
    table = tuned_text(tuned)
    if tuned.best is None:
        return f"{table}\n\nNothing fits: take more devices, or a smaller batch."
    if tuned.rule is None:
        return f"{table}\n\nThe experiment's own rule is the best that was found."
    return f"{table}\n\n{to_python(tuned.rule)}"


def _json(tuned: Tuned) -> str:
    best = {
        "best": None if tuned.best is None else tuned.best.to_dict(),
        "rule": None if tuned.rule is None else to_python(tuned.rule),
        "num_compared": tuned.num_compared,
        "own": tuned.own.to_dict(),
    }
    return json.dumps(best, indent=2)
