"""Where every array of a model lies and what it takes, by arithmetic: no devices, any mesh.

    report = sharding_report(model.all_parameter_specs(), rules=rules, axis_sizes=mesh_shape.total_sizes())
    print(report)
    report.bytes_per_device

Activations have no specs of their own; describe them as `LogicalArray`s.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from trellax.parallel.sharding.axis_rules import LogicalAxes, LogicalAxisRules, SpecReport
from trellax.parallel.sharding.placement import refuse_collisions, visit_specs


@dataclasses.dataclass(frozen=True)
class LogicalArray:
    """An array that is only described."""

    shape: tuple[int, ...]
    logical_axes: LogicalAxes
    dtype: str


@dataclasses.dataclass(frozen=True)
class ArrayPlacement:
    """One array on a mesh.

    Attributes:
        path: where the array stands in the tree.
        shape: of all of it.
        dtype: its type.
        logical_axes: what its dimensions are called.
        spec: the mesh axes that split each dimension, and those left out, with reasons.
        bytes_per_device: what its part on one device takes.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    logical_axes: tuple[str | None, ...]
    spec: SpecReport
    bytes_per_device: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON's types."""
        return {
            "path": self.path,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "logical_axes": list(self.logical_axes),
            "mesh_axes": [list(axes) for axes in self.spec.mesh_axes],
            "left_out": [str(omitted) for omitted in self.spec.omitted],
            "bytes_per_device": self.bytes_per_device,
        }

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.dtype}{list(self.shape)} {self.spec} {self.bytes_per_device:,} B"
        )


@dataclasses.dataclass(frozen=True)
class ShardingReport:
    """All arrays of a tree on a mesh."""

    arrays: tuple[ArrayPlacement, ...]

    @property
    def size(self) -> int:
        """Number of elements of all arrays."""
        return sum(array.size for array in self.arrays)

    @property
    def bytes_per_device(self) -> int:
        """What they take on each device together."""
        return sum(array.bytes_per_device for array in self.arrays)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON's types."""
        arrays = [array.to_dict() for array in self.arrays]
        return {"arrays": arrays, "size": self.size, "bytes_per_device": self.bytes_per_device}

    def __str__(self) -> str:
        total = f"total: {self.size:,} elements, {self.bytes_per_device:,} B per device"
        return "\n".join([*map(str, self.arrays), total])


def sharding_report(
    specs: Any, *, rules: LogicalAxisRules, axis_sizes: Mapping[str, int]
) -> ShardingReport:
    """Returns where each array of a tree lies.

    Args:
        specs: tree whose leaves have `shape`, `logical_axes` and `dtype`: a layer's `ParameterSpec`s, `LogicalArray`s.
        rules: which mesh axes split each logical axis.
        axis_sizes: size of each mesh axis: `mesh.shape`, or `MeshShape.total_sizes()` of a resolved shape.

    Raises:
        ValueError: naming the array, if an axis has no rule, the axes are not as many as the dimensions, or two dimensions of a
            parameter (not of a `LogicalArray`) ask for one mesh axis.
    """
    arrays: list[ArrayPlacement] = []

    def place(path: str, array: Any) -> None:
        if not isinstance(array, LogicalArray):
            refuse_collisions(path, array, rules)
        arrays.append(_placement(path, array, rules, axis_sizes))

    visit_specs(place, specs)
    return ShardingReport(tuple(arrays))


def _placement(
    path: str, array: Any, rules: LogicalAxisRules, axis_sizes: Mapping[str, int]
) -> ArrayPlacement:
    try:
        spec = rules.explain_spec(array.logical_axes, shape=array.shape, axis_sizes=axis_sizes)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e
    parts = math.prod(axis_sizes[axis] for axes in spec.mesh_axes for axis in axes)
    bits = math.prod(array.shape) // parts * _bits(path, array.dtype)
    return ArrayPlacement(
        path=path,
        shape=tuple(array.shape),
        dtype=str(array.dtype),
        logical_axes=tuple(array.logical_axes),
        spec=spec,
        bytes_per_device=-(-bits // 8),
    )


def _bits(path: str, dtype: Any) -> int:
    """Returns the width of a type by its name: 16 of "bfloat16", 8 of "float8_e4m3fn"."""
    width = re.search(r"\d+", str(dtype))
    if width is None:
        raise ValueError(f"{path}: {dtype!r} does not tell its width as 'float32' does.")
    return int(width[0])
