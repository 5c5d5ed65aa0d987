"""The folder of a run: what it is, so that it can be resumed, repeated and read later.

config.json        the resolved config, lossless
config.py          the same as Python
environment.json   versions, hardware, command line, git revision
metrics.jsonl      one object a logged step
checkpoints/       steps
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from trellax.config import (
    DEFAULT_ROOTS,
    Change,
    Config,
    component_of,
    diff,
    format_diff,
    from_json,
    nodes,
    to_json,
    to_python,
)
from trellax.runtime import write_atomically

_DISTRIBUTIONS = ("jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "grain", "tokenizers")

_MAY_DIFFER = (
    "max_steps",
    "log_every_steps",
    "writer",
    "evaluators",
    "checkpointer",
    "profiler",
    "mesh_shape",
    "axis_rules",
    "mesh_rules",
    "name",
    "input.prefetch_threads",
    "input.prefetch_batches",
)
"""What may change when a run goes on: nothing of it changes what is computed, but for the length."""

_WRITTEN_AT_START = ("config.py", "environment.json", "config.json.")
"""What may lie in a folder whose run was killed while it started; temporary names begin so, too."""


class RunFolderError(ValueError):
    """The folder holds something else than this run."""


class RunFolder:
    """One run's folder; nothing is written before `start`."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Returns the folder of a step's checkpoint.

        Raises:
            RunFolderError: if there is none.
        """
        for path in self.checkpoints.glob("*"):
            if path.name.isdecimal() and int(path.name) == step:
                return path
        raise RunFolderError(f"No checkpoint of step {step} in {self.checkpoints}.")

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "config.json").exists()

    def config(self, *, trusted: Collection[str] = ()) -> Any:
        """Returns the config of the run that was started here.

        Args:
            trusted: packages that it may import from, besides those that always may.

        Raises:
            RunFolderError: if there is none.
        """
        file = self.path / "config.json"
        if not file.exists():
            raise RunFolderError(f"{self.path} holds no run (there is no {file.name} in it).")
        return from_json(file.read_text(), allowed_roots=(*DEFAULT_ROOTS, *trusted))

    def check_resumable(self, cfg: Config) -> None:
        """Refuses to go on with another config than the run was started with.

        Raises:
            RunFolderError: listing what differs.
        """
        if not self.holds_run():
            self._check_free()
            return
        changes = [c for c in diff(self.config(trusted=_packages(cfg)), cfg) if not _may_differ(c)]
        if changes:
            raise RunFolderError(
                f"{self.path} holds a run with another config; use another --dir, or drop what "
                f"differs:\n{format_diff(changes, width=60)}"
            )

    def start(self, cfg: Config, *, hardware: str, argv: list[str]) -> None:
        """Writes what the run is. Each file is complete or not there, whatever happens."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "config.py", to_python(cfg))
        environment = json.dumps(_environment(hardware, argv), indent=2) + "\n"
        write_atomically(self.path / "environment.json", environment)
        write_atomically(self.path / "config.json", to_json(cfg))  # Last: it marks the run.

    def _check_free(self) -> None:
        """Refuses a folder of something else; what a start that was killed has left is fine."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; use another --dir.")
        left = [p.name for p in self.path.iterdir()] if self.path.exists() else []
        if not all(name.lstrip(".").startswith(_WRITTEN_AT_START) for name in left):
            raise RunFolderError(f"{self.path} is not empty and holds no run; use another --dir.")


def _packages(cfg: Config) -> set[str]:
    """Returns the top-level packages of a config's components: who has it in hand trusts them."""
    parts = (component_of(node) or type(node) for _, node in nodes(cfg))
    return {part.__module__.partition(".")[0] for part in parts}


def _may_differ(change: Change) -> bool:
    return any(
        change.path == path or change.path.startswith((f"{path}.", f"{path}["))
        for path in _MAY_DIFFER
    )


def _environment(hardware: str, argv: list[str]) -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": argv,
        "hardware": hardware,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": {name: _version(name) for name in _DISTRIBUTIONS},
        "git_revision": _git_revision(),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Returns the revision of the checkout that the program runs from, "+" if it is changed."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return None
    return described.stdout.strip() or None
