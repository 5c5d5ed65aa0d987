"""Writes tensors as Hugging Face's files: in files of a limited size, with an index if there are several.

    write_safetensors(folder, [OutgoingTensor("model.norm.weight", (64,), "BF16", lambda: x)], max_bytes=5e9)

Tensors are made one at a time, when their turn comes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from trellax.runtime.weights.safetensors_files import DTYPES, INDEX, METADATA, SINGLE


@dataclasses.dataclass(frozen=True)
class OutgoingTensor:
    """A tensor that is about to be written.

    Attributes:
        name: under which.
        shape: of what `values` returns.
        dtype: a key of `DTYPES`.
        values: makes the array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    values: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize


def write_safetensors(folder: Path, tensors: Sequence[OutgoingTensor], *, max_bytes: int) -> None:
    """Writes files of at most `max_bytes` of data, or of one larger tensor."""
    groups = _grouped(tensors, max_bytes)
    if len(groups) == 1:
        _write_file(folder / SINGLE, groups[0])
        return
    names = [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    for name, group in zip(names, groups):
        _write_file(folder / name, group)
    index = {
        "metadata": {"total_size": sum(t.num_bytes for t in tensors)},
        "weight_map": {t.name: name for name, group in zip(names, groups) for t in group},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")


def _grouped(tensors: Sequence[OutgoingTensor], max_bytes: int) -> list[list[OutgoingTensor]]:
    groups: list[list[OutgoingTensor]] = [[]]
    used = 0
    for tensor in tensors:
        if groups[-1] and used + tensor.num_bytes > max_bytes:
            groups.append([])
            used = 0
        groups[-1].append(tensor)
        used += tensor.num_bytes
    return groups


def _write_file(path: Path, tensors: Sequence[OutgoingTensor]) -> None:
    header: dict[str, object] = {METADATA: {"format": "pt"}}  # transformers insists on it.
    start = 0
    for tensor in tensors:
        stop = start + tensor.num_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # Data begin at a multiple of 8.
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            x = np.ascontiguousarray(tensor.values(), DTYPES[tensor.dtype])
            assert x.shape == tensor.shape, (tensor.name, x.shape, tensor.shape)
            file.write(x.reshape(-1).view(np.uint8).data)
            del x  # Before the next one is made.
        file.flush()
        os.fsync(file.fileno())
