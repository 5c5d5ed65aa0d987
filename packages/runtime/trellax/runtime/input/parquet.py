"""Documents in a text column of Parquet files (read with pyarrow, a row group at a time).

ParquetDocuments.default_config().set(paths=["corpus/"], column="text")
"""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_right
from pathlib import Path
from typing import Any

from trellax.runtime.input.errors import InputError
from trellax.runtime.input.record_files import RecordFiles, require_text

_ROW_GROUPS_IN_MEMORY = 2


class ParquetDocuments(RecordFiles):
    """Parquet files; a row is a document."""

    class Config(RecordFiles.Config):
        """Attributes: column: name of the column that holds the text."""

        suffix: str = ".parquet"
        column: str = "text"

    cfg: Config

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self._row_group = functools.lru_cache(_ROW_GROUPS_IN_MEMORY)(self._read_row_group)
        self._stops_of = functools.lru_cache(maxsize=None)(self._read_stops)

    def _count(self, file: Path) -> int:
        return self._stops_of(file)[-1]

    def _read(self, file: Path, record: int) -> str:
        stops = self._stops_of(file)
        group = bisect_right(stops, record)
        value = self._row_group(file, group)[record - stops[group]].as_py()  # Counts from the end.
        return require_text(value, f"{file}: row {record}, column {self.cfg.column!r}")

    def _read_stops(self, file: Path) -> list[int]:
        """Returns the number of rows up to the end of each row group."""
        parquet = _open(file)
        if self.cfg.column not in parquet.schema_arrow.names:
            raise InputError(
                f"{file}: no column {self.cfg.column!r}; set `column`. "
                f"It has: {', '.join(parquet.schema_arrow.names)}."
            )
        groups = range(parquet.metadata.num_row_groups)
        rows = (parquet.metadata.row_group(g).num_rows for g in groups)
        return list(itertools.accumulate(rows)) or [0]

    def _read_row_group(self, file: Path, group: int) -> Any:
        return _open(file).read_row_group(group, columns=[self.cfg.column]).column(0)


def _open(file: Path) -> Any:
    import pyarrow  # Imported here: most runs read no Parquet, and it costs a fifth of a second.
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowInvalid, OSError) as e:
        raise InputError(f"{file}: not a readable Parquet file ({e}).") from None
