"""`trellax show NAME`: prints the config tree of an experiment."""

from __future__ import annotations

import sys
from typing import Any

from trellax.config import explain, finalize, show, to_json, to_python
from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.cli.configs import config_of, hardware_of
from trellax.experiments.goldens import parameter_text
from trellax.experiments.shardings import shardings_of, shardings_text


def run(arguments: Arguments) -> int:
    """Prints the tree as --as asks, or where one of its values comes from (--explain)."""
    cfg = config_of(arguments, arguments.name)
    if arguments.flags.explain:
        print(explain(cfg, arguments.flags.explain))
        return 0
    color = sys.stdout.isatty()
    forms = {
        "text": lambda: show(cfg, color=color),
        "final": lambda: show(finalize(cfg), color=color),
        "python": lambda: to_python(cfg),
        "json": lambda: to_json(cfg),
        "specs": lambda: parameter_text(cfg.model),
        "shardings": lambda: _shardings(cfg, arguments),
    }
    print(forms[str(arguments.flags["as"].value)]().rstrip("\n"))
    return 0


def _shardings(cfg: Any, arguments: Arguments) -> str:
    if not arguments.flags.hardware:
        raise UsageError("--as=shardings needs one --hardware, e.g. --hardware=tpu-v5p-512.")
    (hardware,) = hardware_of(arguments)
    return shardings_text(shardings_of(cfg, num_devices=hardware.num_devices))
