"""Documents in JSON Lines: one object a line, the text in one of its fields.

JsonlDocuments.default_config().set(paths=["corpus/*.jsonl"], field="text")
"""

from __future__ import annotations

import functools
import mmap
from pathlib import Path

import numpy as np

from trellax.runtime.input.record_files import RecordFiles, text_of_json


class JsonlDocuments(RecordFiles):
    """JSON Lines files; blank lines are passed over."""

    class Config(RecordFiles.Config):
        """Attributes: field: name of the field that holds the text."""

        suffix: str = ".jsonl"
        field: str = "text"

    cfg: Config

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self._lines = functools.lru_cache(maxsize=None)(_lines)

    def _count(self, file: Path) -> int:
        return len(self._lines(file)[0])

    def _read(self, file: Path, record: int) -> str:
        starts, numbers = self._lines(file)
        with file.open("rb") as f:
            f.seek(starts[record])
            return text_of_json(f.readline(), self.cfg.field, f"{file}:{numbers[record]}")


def _lines(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (byte offset, line number counted from 1) of the lines that are not blank."""
    if not file.stat().st_size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts, numbers = [], []
    with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        offset = 0
        for number, line in enumerate(iter(data.readline, b""), 1):
            if line.strip():
                starts.append(offset)
                numbers.append(number)
            offset += len(line)
    return np.array(starts, np.int64), np.array(numbers, np.int64)
