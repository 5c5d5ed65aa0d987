"""Hugging Face folders' tensors: one `model.safetensors`, or several and an index.

    source = SafetensorsFolder(Path("llama"))
    with source.tensor("model.norm.weight") as x: ...

A file is the length of a header (8 bytes, little endian), the header (JSON: {name: {dtype, shape, data_offsets}}) and
the data. See `safetensors_writing` for the other direction.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from trellax.runtime.weights.errors import WeightsFormatError
from trellax.runtime.weights.source import MappedFile, TensorInfo

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}
METADATA = "__metadata__"


class SafetensorsFile:
    """One file."""

    def __init__(self, path: Path):
        self.path = path
        self._file = MappedFile(path)
        size = int.from_bytes(self._file.bytes(0, 8), "little")
        self._data = 8 + size
        self.header = _header(path, self._file.bytes(8, min(size, len(self._file))))
        for name, entry in self.header.items():
            self._check(name, entry)

    @functools.cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """What the file holds."""
        return {name: self._info(entry) for name, entry in self.header.items()}

    @contextlib.contextmanager
    def tensor(self, name: str) -> Iterator[np.ndarray]:
        """Gives a view of a tensor."""
        entry = self.header[name]
        start = self._data + entry["data_offsets"][0]
        count = math.prod(entry["shape"])
        with self._file.array(start, count, DTYPES[entry["dtype"]]) as x:
            yield x.reshape(entry["shape"])

    def _info(self, entry: Mapping[str, Any]) -> TensorInfo:
        dtype = entry["dtype"]
        refusal = None if dtype in DTYPES else f"stored as {dtype}; read are {', '.join(DTYPES)}"
        return TensorInfo(
            tuple(entry["shape"]), dtype, (self.path.name, entry["data_offsets"][0]), refusal
        )

    def _check(self, name: str, entry: Mapping[str, Any]) -> None:
        start, stop = entry["data_offsets"]
        if not 0 <= start <= stop <= len(self._file) - self._data:
            raise WeightsFormatError(
                f"{self.path}: {name} ends at byte {self._data + stop} of {len(self._file)}; the file was cut short."
            )
        dtype = DTYPES.get(entry["dtype"])
        if dtype and math.prod(entry["shape"]) * np.dtype(dtype).itemsize != stop - start:
            raise WeightsFormatError(
                f"{self.path}: {name} of shape {entry['shape']} and type {entry['dtype']} does not take "
                f"{stop - start} bytes."
            )


class SafetensorsFolder:
    """All files of a model."""

    def __init__(self, path: Path):
        self.path = path
        self._files = [SafetensorsFile(path / name) for name in _file_names(path)]
        self._file_of = {name: file for file in self._files for name in file.tensors}
        twice = sum(len(file.tensors) for file in self._files) - len(self._file_of)
        if twice:
            raise WeightsFormatError(f"{path}: {twice} tensors are in two files.")

    @functools.cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """What the files hold."""
        return {name: info for file in self._files for name, info in file.tensors.items()}

    def tensor(self, name: str) -> contextlib.AbstractContextManager[np.ndarray]:
        """Gives a view of a tensor."""
        return self._file_of[name].tensor(name)


def _file_names(folder: Path) -> list[str]:
    """Returns the files that belong to the model; others may lie beside them."""
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index.get("weight_map", {}).values()))
        absent = [n for n in names if Path(n).name != n or not (folder / n).is_file()]
        if absent or not names:
            raise WeightsFormatError(
                f"{folder / INDEX} names files that are not there: {', '.join(absent) or 'none at all'}."
            )
        return names
    if (folder / SINGLE).is_file():
        return [SINGLE]
    others = sorted(p.name for p in folder.glob("*.bin"))
    hint = f" It has {others[0]}: convert it to safetensors." if others else ""
    raise WeightsFormatError(f"{folder} has neither {SINGLE} nor {INDEX}.{hint}")


def _header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
        header.pop(METADATA, None)
        for entry in header.values():
            (_, _), _ = entry["data_offsets"], (entry["shape"], entry["dtype"])
        return header
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise WeightsFormatError(f"{path}: not a safetensors file ({e}).") from None
