"""Documents in ArrayRecord files: records are UTF-8 text, or JSON objects with a text field.

ArrayRecordDocuments.default_config().set(paths=["corpus/*.array_record"], field="text")
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from trellax.runtime.input.errors import InputError
from trellax.runtime.input.files import decode
from trellax.runtime.input.record_files import RecordFiles, text_of_json

_OPEN_FILES = 64


class ArrayRecordDocuments(RecordFiles):
    """ArrayRecord files; a record is a document."""

    class Config(RecordFiles.Config):
        """Attributes: field: name of the JSON field with the text; None if the record is the text."""

        suffix: str = ".array_record"
        field: str | None = None

    cfg: Config

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self._reader = functools.lru_cache(_OPEN_FILES)(_reader)

    def _count(self, file: Path) -> int:
        return int(self._reader(file).num_records())

    def _read(self, file: Path, record: int) -> str:
        where = f"{file}: record {record}"
        try:
            (data,) = self._reader(file).read([record])
        except RuntimeError as e:
            raise InputError(f"{where}: cannot be read ({e}).") from None
        if self.cfg.field is None:
            return decode(data, where)
        return text_of_json(data, self.cfg.field, where)


def _reader(file: Path) -> Any:
    from array_record.python import array_record_module  # Imported only by runs that need it.

    try:
        reader = array_record_module.ArrayRecordReader(str(file))
    except (RuntimeError, ValueError) as e:
        raise InputError(f"{file}: not an ArrayRecord file ({e}).") from None
    if not reader.ok():
        raise InputError(f"{file}: not an ArrayRecord file.")
    return reader
