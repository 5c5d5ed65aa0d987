"""The command line, and snippets of Python, as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

MAIN = "from trellax.experiments.cli import main; main()"


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of a process that imports what this one can, on the CPU."""
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", **more}


def started(argv: Sequence[str], **more: str) -> subprocess.Popen[str]:
    """Starts the command line; `more` are environment variables."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *argv],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def modules_after(code: str) -> set[str]:
    """Returns the modules that a new process has loaded after running `code`."""
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines()[-1].split())
