"""Progress in the terminal: a bar where there is one, plain lines in logs.

step 120/1000  loss 4.1231  tokens/s 12,345  ETA 0:12:30
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from trellax.runtime.writers.writer import Writer, scalar


class ProgressWriter(Writer):
    """Shows how far the run is, on standard error."""

    class Config(Writer.Config):
        """What is shown, and how often.

        Attributes:
            shown: which values, in order, and what they are called.
            line_seconds: in a log, at least so long between two lines; the first and the last
                step always get theirs.
            refresh_seconds: in a terminal, at least so long between two drawings.
        """

        shown: dict[str, str] = {"loss": "loss", "tokens_per_second": "tokens/s"}  # noqa: RUF012
        line_seconds: float = 10.0
        refresh_seconds: float = 0.1

    def __init__(
        self,
        cfg: Config,
        *,
        directory: str | os.PathLike[str],
        total_steps: int | None = None,
        console: Any = None,
    ):
        """Opens nothing yet; see `Writer`. `console` is a rich one; None for standard error."""
        super().__init__(cfg, directory=directory, total_steps=total_steps)
        self._console = console
        self._bar: _Bar | _Lines | None = None
        self._start_step = 0
        self._start_time = time.monotonic()
        self._last_shown = float("-inf")
        self._values: dict[str, Any] = {}
        self._step = self._shown_step = -1

    def resume(self, step: int) -> None:
        """Counts the speed, and the time to go, from here."""
        self._start_step, self._start_time = step, time.monotonic()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        news = {label: scalar(values[n]) for n, label in self.cfg.shown.items() if n in values}
        if not news and step == self._step:
            return  # An evaluation of a step that is shown already.
        self._step = step
        self._values |= news
        bar = self._open()
        seconds = self.cfg.line_seconds if isinstance(bar, _Lines) else self.cfg.refresh_seconds
        now = time.monotonic()
        if step == self.total_steps or now - self._last_shown >= seconds:
            self._show(bar, now)

    def close(self) -> None:
        """Shows the last step, if it was held back, and gives the terminal back."""
        if self._bar is not None:
            if self._shown_step != self._step:
                self._show(self._bar, time.monotonic())
            self._bar.close()
            self._bar = None

    def _show(self, bar: _Bar | _Lines, now: float) -> None:
        self._last_shown, self._shown_step = now, self._step
        bar.show(self._step, self._described(), self._seconds_to_go(now))

    def _open(self) -> _Bar | _Lines:
        if self._bar is None:
            is_terminal = self._console.is_terminal if self._console else sys.stderr.isatty()
            kind = _Bar if is_terminal else _Lines
            self._bar = kind(self._console, self.total_steps)
        return self._bar

    def _described(self) -> str:
        return "  ".join(f"{label} {_format(value)}" for label, value in self._values.items())

    def _seconds_to_go(self, now: float) -> float | None:
        done = self._step - self._start_step
        if self.total_steps is None or done <= 0:
            return None
        return (now - self._start_time) / done * (self.total_steps - self._step)


class _Lines:
    """Plain lines, for logs."""

    def __init__(self, console: Any, total_steps: int | None):
        self._file = console.file if console else sys.stderr
        self._of = f"/{total_steps}" if total_steps else ""

    def show(self, step: int, described: str, seconds: float | None) -> None:
        eta = f"  {_eta(seconds)}" if seconds else ""
        print(f"step {step}{self._of}  {described}{eta}", file=self._file, flush=True)

    def close(self) -> None:
        return None


class _Bar:
    """A bar that is drawn by the training loop's own thread, so it costs nothing in between."""

    def __init__(self, console: Any, total_steps: int | None):
        from rich.console import Console  # Not at the top: it is for terminals only.
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        text = TextColumn("{task.description}", markup=False)
        columns = (BarColumn(), MofNCompleteColumn(), text)
        console = console or Console(stderr=True)
        self._progress = Progress(*columns, console=console, auto_refresh=False)
        self._task = self._progress.add_task("", total=total_steps)
        self._progress.start()

    def show(self, step: int, described: str, seconds: float | None) -> None:
        eta = "" if seconds is None else f"  {_eta(seconds)}"
        text = f"{described}{eta}"
        self._progress.update(self._task, completed=step, description=text, refresh=True)

    def close(self) -> None:
        self._progress.stop()


def _eta(seconds: float) -> str:
    return f"ETA {timedelta(seconds=round(seconds))}"


def _format(value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.3g}"
