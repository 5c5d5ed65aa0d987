"""`metrics.jsonl`: one JSON object a logged step, each step once, whole after any crash.

    for line in open(run / "metrics.jsonl"): json.loads(line)["loss"]

A line is written by one system call before `write` returns, so a killed process loses no line that
it wrote. A kill within that call, or a machine that loses power, may leave a torn last line, which
the next start removes. Numbers keep all their digits. JSON has no NaN and no infinities: they become the strings "NaN", "Infinity" and
"-Infinity", which `float` reads.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trellax.runtime.writers.writer import Writer, WriterError, WriterWarning, scalar


class JsonlWriter(Writer):
    """The run's record: by default it is required, since plots and resumption tests read it."""

    class Config(Writer.Config):
        """Attributes: filename: in the run's folder."""

        required: bool = True
        filename: str = "metrics.jsonl"

    def __init__(
        self, cfg: Config, *, directory: str | os.PathLike[str], total_steps: int | None = None
    ):
        super().__init__(cfg, directory=directory, total_steps=total_steps)
        self.path = self.directory / cfg.filename
        self._descriptor: int | None = None
        self._last: dict[str, Any] = {}
        self._last_start = 0  # Where the last line begins, in bytes.

    def resume(self, step: int) -> None:
        """Drops lines of later steps, torn lines, and all but the last line of a step."""
        self._close_file()
        if self.path.exists():
            with _naming(self.path):
                _rewrite(self.path, _lines_until(self.path, step))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line, or adds to the last one if it is of the same step.

        Raises:
            ValueError: if `step` is below the last one in the file, or a value is no JSON.
            WriterError: if the file cannot be written.
        """
        with _naming(self.path):
            descriptor = self._open()
            last_step = self._last.get("step", step)
            if step < last_step:
                raise ValueError(
                    f"{self.path} ends at step {last_step}, but step {step} was logged; call "
                    f"resume(step) before the first write."
                )
            self._append(descriptor, step, values, merge=bool(self._last) and step == last_step)

    def close(self) -> None:
        self._close_file()

    def _append(
        self, descriptor: int, step: int, values: Mapping[str, Any], *, merge: bool
    ) -> None:
        start = self._last_start if merge else os.fstat(descriptor).st_size
        record = (self._last if merge else {"step": step}) | {
            name: _jsonable(value) for name, value in values.items()
        }
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        written = os.pwrite(descriptor, line, start)
        if written < len(line):
            os.ftruncate(descriptor, start)
            raise OSError(f"only {written} of {len(line)} bytes were written; the disk is full")
        os.ftruncate(descriptor, start + len(line))
        self._last, self._last_start = record, start

    def _open(self) -> int:
        if self._descriptor is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                _end_with_whole_line(self.path)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            self._find_last_line()
        return self._descriptor

    def _find_last_line(self) -> None:
        content = self.path.read_bytes()
        self._last_start = content.rfind(b"\n", 0, max(0, len(content) - 1)) + 1
        last = _parse(content[self._last_start :])
        self._last = last or {}

    def _close_file(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns an `OSError` into a `WriterError` that names the file."""
    try:
        yield
    except OSError as e:
        raise WriterError(
            f"{path} cannot be written: {e}. Free some space or mend the folder, then start "
            f"again: the run resumes from its last checkpoint."
        ) from e


def _lines_until(path: Path, step: int) -> Iterator[bytes]:
    """Yields the lines of steps up to `step`; the last of those with one number."""
    by_step: dict[int, bytes] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        record = _parse(line)
        if record is not None and record["step"] <= step:
            by_step[record["step"]] = line + b"\n"
        elif record is None and line:
            warnings.warn(f"{path}:{number}: a torn line was removed.", WriterWarning, stacklevel=4)
    yield from by_step.values()


def _rewrite(path: Path, lines: Iterator[bytes]) -> None:
    """Replaces the file in one rename."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _end_with_whole_line(path: Path) -> None:
    """Cuts off what follows the last whole line."""
    content = path.read_bytes()
    tail = content[content.rfind(b"\n") + 1 :]
    if not tail:
        return
    with path.open("r+b") as file:
        if _parse(tail) is not None:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        else:
            file.truncate(len(content) - len(tail))


def _parse(line: bytes) -> dict[str, Any] | None:
    """Returns the record in a line, or None if it is torn."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    has_step = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if has_step else None


def _jsonable(value: Any) -> Any:
    value = scalar(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value.tolist() if hasattr(value, "tolist") else value
