"""TensorBoard event files, without TensorFlow.

tensorboard --logdir=RUN/tensorboard
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from trellax.runtime.writers.writer import Writer, scalar


class TensorBoardWriter(Writer):
    """Writes numbers as scalars and text as text; anything else is left to other writers."""

    class Config(Writer.Config):
        """Where and how often.

        Attributes:
            subdirectory: of the run's folder.
            flush_seconds: how long values may stay in memory.
        """

        subdirectory: str = "tensorboard"
        flush_seconds: int = 10

    def __init__(
        self, cfg: Config, *, directory: str | os.PathLike[str], total_steps: int | None = None
    ):
        super().__init__(cfg, directory=directory, total_steps=total_steps)
        self._events: Any = None
        self._purge_step: int | None = None

    def resume(self, step: int) -> None:
        """Has TensorBoard ignore what earlier event files say of later steps."""
        self.close()
        self._purge_step = step + 1

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        events = self._open()
        for name, raw in values.items():
            value = scalar(raw)
            if isinstance(value, str):
                events.add_text(name, value, step)
            elif isinstance(value, int | float):
                events.add_scalar(name, value, step)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _open(self) -> Any:
        if self._events is None:
            from tensorboardX import SummaryWriter  # Not at the top: it takes a fifth of a second.

            self._events = SummaryWriter(
                logdir=str(self.directory / self.cfg.subdirectory),
                purge_step=self._purge_step,
                flush_secs=self.cfg.flush_seconds,
            )
        return self._events
