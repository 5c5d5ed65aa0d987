"""Which axes the optimizer's state arrays have, read from the parameters they belong to."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from trellax.layers import ParameterSpec, is_spec


@dataclasses.dataclass(frozen=True)
class StateSpec:
    """Shape, type and logical axes of one array of the learner's state."""

    shape: tuple[int, ...]
    dtype: str
    logical_axes: tuple[str | None, ...]


def state_specs(state: Any, parameter_specs: Any) -> Any:
    """Returns a tree of `StateSpec`s for a tree of arrays or `ShapeDtypeStruct`s.

    An array belongs to the parameter whose path its own path ends with (moments, averages). If it
    lacks some of the parameter's dims (factored moments) it keeps the axes of those that remain.
    Everything else (counters) has unnamed axes and is replicated.
    """
    by_path = {
        _dict_keys(path): spec
        for path, spec in jax.tree_util.tree_leaves_with_path(parameter_specs, is_leaf=is_spec)
    }

    def spec_of(path: Any, array: Any) -> StateSpec:
        keys = _dict_keys(path)
        owner = next((by_path[keys[i:]] for i in range(len(keys)) if keys[i:] in by_path), None)
        axes = _axes(array.shape, owner) if owner else (None,) * len(array.shape)
        return StateSpec(tuple(array.shape), str(array.dtype), axes)

    return jax.tree_util.tree_map_with_path(spec_of, state)


def _dict_keys(path: Any) -> tuple[str, ...]:
    return tuple(k.key for k in path if isinstance(k, jax.tree_util.DictKey))


def _axes(shape: tuple[int, ...], owner: ParameterSpec) -> tuple[str | None, ...]:
    """Names the dims of `shape`, a subsequence of the owner's dims; unnamed if it is not one."""
    axes: list[str | None] = []
    remaining = list(zip(owner.shape, owner.logical_axes, strict=True))
    for size in shape:
        while remaining and remaining[0][0] != size:
            remaining.pop(0)
        if not remaining:
            return (None,) * len(shape)
        axes.append(remaining.pop(0)[1])
    return tuple(axes)
