"""Several writers as one; the default of a run.

MultiWriter.default_config().set(writers=[JsonlWriter.default_config()])
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from trellax.runtime.writers.jsonl import JsonlWriter
from trellax.runtime.writers.progress import ProgressWriter
from trellax.runtime.writers.tensorboard import TensorBoardWriter
from trellax.runtime.writers.writer import Writer, WriterWarning


class MultiWriter(Writer):
    """Passes everything on, in order.

    A writer that is not `required` and raises is reported once, as a `WriterWarning`, and left
    out from then on: no run of days ends because a log's disk is full. A required one's error is
    raised, after the others had their turn.
    """

    class Config(Writer.Config):
        """Attributes: writers: the writers, by name (a name is a stable path for overrides)."""

        required: bool = True
        writers: dict[str, Writer.Config] = {  # noqa: RUF012 - copied by value into each config
            "jsonl": JsonlWriter.default_config(),
            "tensorboard": TensorBoardWriter.default_config(),
            "progress": ProgressWriter.default_config(),
        }

    def __init__(
        self, cfg: Config, *, directory: str | os.PathLike[str], total_steps: int | None = None
    ):
        super().__init__(cfg, directory=directory, total_steps=total_steps)
        self._writers: dict[str, Writer] = {
            name: writer.instantiate(directory=directory, total_steps=total_steps)
            for name, writer in cfg.writers.items()
        }

    def resume(self, step: int) -> None:
        self._each(lambda writer: writer.resume(step))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        self._each(lambda writer: writer.write(step, values))

    def close(self) -> None:
        self._each(lambda writer: writer.close())

    def _each(self, call: Callable[[Writer], None]) -> None:
        failure: Exception | None = None
        for name, writer in list(self._writers.items()):
            try:
                call(writer)
            except Exception as e:
                if writer.cfg.required:
                    failure = failure or e
                else:
                    self._leave_out(name, e)
        if failure is not None:
            raise failure

    def _leave_out(self, name: str, error: Exception) -> None:
        writer = self._writers.pop(name)
        warnings.warn(
            f"{type(writer).__qualname__} ({name}) failed and is left out from now on: "
            f"{error!r}. Set its `required` to end the run instead.",
            WriterWarning,
            stacklevel=4,
        )
