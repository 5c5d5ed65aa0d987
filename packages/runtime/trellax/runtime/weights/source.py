"""`WeightSource`: named tensors in files, read one at a time.

with source.tensor("model.norm.weight") as x: ...  # x is only good inside
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trellax.runtime.weights.errors import WeightsFormatError


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What a file says of a tensor.

    Attributes:
        shape: sizes of the dims, the slowest first.
        dtype: how it is stored, as the file calls it.
        place: sorts tensors as they lie on disk.
        refusal: why it cannot be read; None if it can.
    """

    shape: tuple[int, ...]
    dtype: str
    place: tuple[str, int]
    refusal: str | None = None


class WeightSource(Protocol):
    """Interface: the tensors of a model.

    Attributes:
        path: where they are, for messages.
        tensors: what there is.
    """

    path: Path

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def tensor(self, name: str) -> AbstractContextManager[np.ndarray]:
        """Gives the values of a tensor, floating-point; they may vanish when the context ends."""


class MappedFile:
    """A file in memory as far as it is being read."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # Nothing can be mapped.
            raise WeightsFormatError(f"{path}: the file is empty.") from None

    def __len__(self) -> int:
        return len(self._map)

    def bytes(self, start: int, size: int) -> bytes:
        """Returns a copy of some bytes."""
        if start + size > len(self._map):
            raise WeightsFormatError(
                f"{self.path}: ends at byte {len(self._map)}, within what begins at {start}; it was cut short."
            )
        return self._map[start : start + size]

    @contextlib.contextmanager
    def array(self, start: int, count: int, dtype: Any) -> Iterator[np.ndarray]:
        """Gives a view of the file; its pages leave memory when the context ends."""
        yield np.frombuffer(self._map, dtype, count, start)
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        size = start + count * np.dtype(dtype).itemsize - first
        if size and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, size)
