"""The nodes that Trellax adds to grain. Importing this module imports grain (and with it jax).

    rows = RowsByFunction(dataset.row, dataset.num_rows).shuffle(seed=1)
    batches = ProcessRows(rows.repeat(), 8, process_index=0, num_processes=2).batch(4)

B rows of the global batch, P processes, R = B / P rows of a batch that belong to one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grain


class RowsByFunction(grain.MapDataset):
    """Rows that a pure function of any `i >= 0` gives; `num_rows` of them are an epoch."""

    def __init__(self, row_fn: Callable[[int], Any], num_rows: int):
        super().__init__()
        self._row_fn = row_fn
        self._num_rows = num_rows

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return self._row_fn(index)


class PaddedTo(grain.MapDataset):
    """One epoch of rows, followed by padding rows up to a length."""

    def __init__(self, parent: grain.MapDataset, length: int, padding_row: Any):
        super().__init__(parent)
        self._length = length
        self._padding_row = padding_row

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return self._parent[index] if index < len(self._parent) else self._padding_row


class ProcessRows(grain.MapDataset):
    """The rows of one process: of each run of B rows, the process's own R in order."""

    def __init__(
        self,
        parent: grain.MapDataset,
        global_batch_size: int,
        *,
        process_index: int,
        num_processes: int,
    ):
        super().__init__(parent)
        self._global_batch_size = global_batch_size
        self._rows_per_batch = global_batch_size // num_processes
        self._offset = process_index * self._rows_per_batch

    def __len__(self) -> int:
        return len(self._parent) // self._global_batch_size * self._rows_per_batch

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, self._rows_per_batch)
        return self._parent[batch * self._global_batch_size + self._offset + row]
