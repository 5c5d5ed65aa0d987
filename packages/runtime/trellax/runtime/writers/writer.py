"""`Writer`: the interface of everything that is told the values of logged steps.

class PrintWriter(Writer):
    def write(self, step, values): print(step, values)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trellax.config import Configurable


class WriterError(OSError):
    """A writer that must not fail could not write; the message names its file."""


class WriterWarning(UserWarning):
    """A writer that may fail did, and is left out from then on; or it mended what it found."""


class Writer(Configurable):
    """Is told of each logged step, in ascending order, by one process and one thread.

    `write` may be called several times for one step (training values, then evaluations); their
    values belong together.
    """

    class Config(Configurable.Config):
        """What all writers have.

        Attributes:
            required: whether a failure ends the run. See `MultiWriter` for the others.
        """

        required: bool = False

    def __init__(
        self, cfg: Any, *, directory: str | os.PathLike[str], total_steps: int | None = None
    ):
        """Prepares to write; files are opened by the first `write`.

        Args:
            cfg: of this writer.
            directory: the run's folder, which is made where it is missing.
            total_steps: the number of the run's last step, if it is known.
        """
        super().__init__(cfg)
        self.directory = Path(directory)
        self.total_steps = total_steps

    def resume(self, step: int) -> None:
        """Forgets all steps after `step`, from which training goes on (0: it begins)."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Records values of a step.

        Args:
            step: how many steps are done; not below that of the write before.
            values: by name; numbers, or arrays of no dimension. Each writer picks what it can
                show.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not say how it writes.")

    def close(self) -> None:
        """Writes out what is held back. Nothing is written afterwards."""


def scalar(value: Any) -> Any:
    """Returns a Python number for one of numpy or JAX, and anything else as it is."""
    is_array = hasattr(value, "dtype") and hasattr(value, "item")
    return value.item() if is_array and getattr(value, "size", 0) == 1 else value
