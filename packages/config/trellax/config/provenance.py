"""Where a value was set: the file and line outside this package that last touched a field.

Usage: `cfg.origin("dim")` is `Origin("recipes/llama.py", 33)`.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Origin(NamedTuple):
    """A place in source code, or a `note` such as "override on the command line"."""

    filename: str
    line: int
    note: str = ""

    def __str__(self) -> str:
        place = f"{_shortened(self.filename)}:{self.line}" if self.filename else ""
        return f"{self.note} ({place})" if self.note and place else self.note or place

    def noting(self, note: str) -> Origin:
        """Returns this origin with `note` in front of the note that it has."""
        return self._replace(note=f"{note}, {self.note}" if self.note else note)


def caller_origin(note: str = "") -> Origin:
    """Returns the innermost frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return Origin(frame.f_code.co_filename, frame.f_lineno, note)


def _shortened(filename: str) -> str:
    here = os.getcwd() + os.sep
    return filename[len(here) :] if filename.startswith(here) else filename
