"""What the sources of many records a file share: finding record i among files, and its text.

Files are opened when a record of theirs is first asked for; only counts are read before.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
from pathlib import Path
from typing import Any

from trellax.config import REQUIRED, Required
from trellax.runtime.input.documents import DocumentSource
from trellax.runtime.input.errors import InputError
from trellax.runtime.input.files import digest, digest_of_files, expand


class RecordFiles(DocumentSource):
    """Files of records, each of which is one document. Subclasses count and read them."""

    class Config(DocumentSource.Config):
        """Where the records lie.

        Attributes:
            paths: files, folders (all files below them that end in `suffix`) and globs.
            suffix: what a folder's files end in.
        """

        paths: Required[list[str]] = REQUIRED
        suffix: Required[str] = REQUIRED

    cfg: Any

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self._files: list[Path] = expand(cfg.paths, suffix=cfg.suffix)

    def _count(self, file: Path) -> int:
        """Returns how many records `file` holds."""
        raise NotImplementedError

    def _read(self, file: Path, record: int) -> str:
        """Returns the text of a record of `file`."""
        raise NotImplementedError

    @functools.cached_property
    def _stops(self) -> list[int]:
        stops = list(itertools.accumulate(self._count(file) for file in self._files))
        if not stops[-1]:
            raise InputError(f"{', '.join(map(str, self._files))}: no records.")
        return stops

    def __len__(self) -> int:
        return self._stops[-1]

    def __getitem__(self, index: int) -> str:
        file = bisect.bisect_right(self._stops, self._checked(index))
        start = self._stops[file - 1] if file else 0
        return self._read(self._files[file], index - start)

    def fingerprint(self) -> str:
        settings = [f"{k}={v!r}" for k, v in self.cfg.items() if k not in ("paths", "suffix")]
        return digest(digest_of_files(self._files), *settings)


def text_of_json(line: str | bytes, field: str, where: str) -> str:
    """Returns the text in `field` of a JSON object.

    Raises:
        InputError: beginning with `where`, which names the file and the line or record.
    """
    try:
        record = json.loads(line)
    except ValueError as e:
        raise InputError(f"{where}: not a JSON value ({e}).") from None
    if not isinstance(record, dict) or field not in record:
        held = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise InputError(
            f"{where}: no field {field!r}; set `field`. It holds: {held or 'nothing'}."
        )
    return require_text(record[field], f"{where}: field {field!r}")


def require_text(value: object, where: str) -> str:
    """Returns `value` if it is a text.

    Raises:
        InputError: beginning with `where`, if it is anything else.
    """
    if not isinstance(value, str):
        raise InputError(f"{where} holds {value!r:.60} ({type(value).__name__}), not text.")
    return value
