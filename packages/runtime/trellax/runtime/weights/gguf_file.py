"""GGUF files, versions 2 and 3: metadata, and tensors that are dequantized when they are read.

    file = GgufFile(Path("model.gguf"))
    file.metadata["general.architecture"]
    with file.tensor("blk.0.attn_q.weight") as x: ...  # float32

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trellax.runtime.weights.errors import UnsupportedWeightsError, WeightsFormatError
from trellax.runtime.weights.gguf_blocks import BLOCK_TYPES, dequantized
from trellax.runtime.weights.source import MappedFile, TensorInfo

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = "BbHhIif?"  # Codes of `struct` by number of type.
_STRING, _ARRAY = 8, 9
_WIDE_SCALARS = {10: "Q", 11: "q", 12: "d"}

TENSOR_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}


class GgufFile:
    """One file. Sharded GGUF files are refused.

    Attributes:
        path: the file.
        metadata: what it says of the model. Numbers of type float32 are the shortest decimals that round to them.
        tensors: what it holds.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = MappedFile(path)
        reader = _Reader(self._file)
        num_tensors, num_values = _counts(reader, path)
        self.metadata: dict[str, Any] = {}
        for _ in range(num_values):
            key = reader.string()
            self.metadata[key] = reader.value(reader.number("I"))
        if self.metadata.get("split.count", 1) > 1:
            raise UnsupportedWeightsError(
                f"{path}: one of {self.metadata['split.count']} parts; merge them with llama-gguf-split --merge."
            )
        described = [_described(reader) for _ in range(num_tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        self._data = -(-reader.position // alignment) * alignment
        self.tensors: Mapping[str, TensorInfo] = {
            name: self._info(name, shape, kind, offset) for name, shape, kind, offset in described
        }

    @contextlib.contextmanager
    def tensor(self, name: str) -> Iterator[np.ndarray]:
        """Gives a tensor's values, float32."""
        info = self.tensors[name]
        size = _num_bytes(info.shape, info.dtype)
        with self._file.array(info.place[1], size, np.uint8) as raw:
            yield dequantized(raw, info.dtype).reshape(info.shape)

    def _info(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
        dtype = TENSOR_TYPES.get(kind, f"type {kind}")
        start = self._data + offset
        if dtype not in BLOCK_TYPES:
            refusal = f"stored as {dtype}; read are {', '.join(BLOCK_TYPES)}"
            return TensorInfo(shape, dtype, (self.path.name, start), refusal)
        if shape and shape[-1] % BLOCK_TYPES[dtype].num_weights:
            raise WeightsFormatError(f"{self.path}: {name} {shape} is not made of {dtype} blocks.")
        if start + _num_bytes(shape, dtype) > len(self._file):
            raise WeightsFormatError(
                f"{self.path}: {name} ends at byte {start + _num_bytes(shape, dtype)} of {len(self._file)}; the file was "
                f"cut short."
            )
        return TensorInfo(shape, dtype, (self.path.name, start))


class _Reader:
    """Reads values one after the other."""

    def __init__(self, file: MappedFile):
        self._file = file
        self.position = 0

    def take(self, size: int) -> bytes:
        """Returns the next bytes."""
        taken = self._file.bytes(self.position, size)
        self.position += size
        return taken

    def number(self, code: str) -> Any:
        """Returns a number of a type of `struct`."""
        (number,) = struct.unpack("<" + code, self.take(struct.calcsize(code)))
        return _shortest(number) if code == "f" else number

    def string(self) -> str:
        """Returns a text."""
        return self.take(self.number("Q")).decode(errors="replace")

    def value(self, kind: int) -> Any:
        """Returns a value of a type of GGUF."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            element, count = self.number("I"), self.number("Q")
            return self._strings(count) if element == _STRING else self._array(element, count)
        return self.number(self._code(kind))

    def _array(self, kind: int, count: int) -> list[Any]:
        if kind == _ARRAY:
            return [self.value(kind) for _ in range(count)]
        code = self._code(kind)
        numbers = struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code)))
        return list(numbers)

    def _strings(self, count: int) -> list[str]:
        return [self.string() for _ in range(count)]

    def _code(self, kind: int) -> str:
        if kind < len(_SCALARS):
            return _SCALARS[kind]
        if kind in _WIDE_SCALARS:
            return _WIDE_SCALARS[kind]
        raise WeightsFormatError(
            f"{self._file.path}: value of unknown type {kind} before byte {self.position}."
        )


def _counts(reader: _Reader, path: Path) -> tuple[int, int]:
    if reader.take(4) != MAGIC:
        raise WeightsFormatError(f"{path}: not a GGUF file.")
    version = reader.number("I")
    if version not in _VERSIONS:
        raise UnsupportedWeightsError(
            f"{path}: GGUF version {version}; read are versions {_VERSIONS}, little endian."
        )
    return reader.number("Q"), reader.number("Q")


def _described(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    """Returns (name, shape, type, offset); files give the fastest dim first."""
    name = reader.string()
    shape = [reader.number("Q") for _ in range(reader.number("I"))]
    return name, tuple(reversed(shape)), reader.number("I"), reader.number("Q")


def _num_bytes(shape: tuple[int, ...], dtype: str) -> int:
    block = BLOCK_TYPES[dtype]
    return math.prod(shape) // block.num_weights * block.num_bytes


def _shortest(number: float) -> float:
    return float(str(np.float32(number)))
