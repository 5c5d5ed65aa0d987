"""Weights from files into the parameters of a model: `read_weights`.

    params = read_weights(source, model, weight_map=weight_map("llama"), dtype="bfloat16", shardings=shardings)

Model and file are compared first; then tensors are read in the order that they lie on disk, one at a time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from trellax.layers.weight_names import BoundTensor, WeightMap, parameter_leaves, parameter_tree
from trellax.runtime.weights.errors import refuse_if_any
from trellax.runtime.weights.placing import PlacedParameter, default_sharding
from trellax.runtime.weights.source import WeightSource


def read_weights(
    source: WeightSource,
    model_or_specs: Any,
    *,
    weight_map: WeightMap,
    dtype: str | None = None,
    shardings: Any = None,
) -> dict[str, Any]:
    """Returns a model's parameters.

    Args:
        source: the tensors.
        model_or_specs: the model, or the tree of its parameters' specs or of `ShapeDtypeStruct`s.
        weight_map: which tensor is which parameter.
        dtype: of the parameters; None for those of the model.
        shardings: tree of shardings; None for those of the `ShapeDtypeStruct`s, or the first device.

    Raises:
        WeightsMismatchError: listing all tensors that are missing, surplus, misshapen or of an unread type, before
            anything is read.
    """
    specs = model_or_specs
    if hasattr(model_or_specs, "all_parameter_specs"):
        specs = model_or_specs.all_parameter_specs()
    leaves = parameter_leaves(specs)
    bound = weight_map.bind(specs)
    check_tensors(source, bound, weight_map)
    where = {} if shardings is None else _by_path(shardings, leaves)
    placed = {
        path: PlacedParameter(
            tuple(leaf.shape),
            dtype or leaf.dtype,
            where.get(path) or getattr(leaf, "sharding", None) or default_sharding(),
        )
        for path, leaf in leaves.items()
    }
    for tensor in sorted(bound, key=lambda t: source.tensors[t.name].place):
        if placed[tensor.path].wants(tensor):
            with source.tensor(tensor.name) as values:
                placed[tensor.path].put(tensor, values)
    return parameter_tree({path: parameter.array() for path, parameter in placed.items()})


def check_tensors(
    source: WeightSource, bound: Sequence[BoundTensor], weight_map: WeightMap
) -> None:
    """Raises `WeightsMismatchError` unless the source has just the tensors that are bound."""
    there, wanted = source.tensors, {tensor.name: tensor for tensor in bound}
    problems = [f"missing: {name}, {_place(t)}" for name, t in wanted.items() if name not in there]
    for name, tensor in wanted.items():
        if name in there and there[name].shape != tensor.shape:
            problems.append(
                f"misshapen: {name} is {_dims(there[name].shape)}; {_place(tensor)} takes {_dims(tensor.shape)}"
            )
        if name in there and there[name].refusal is not None:
            problems.append(f"not read: {name} is {there[name].refusal}")
    copies = dict(weight_map.copies)
    for name in there:
        if name in wanted or weight_map.is_derived(name):
            continue
        if copies.get(name) not in there:
            problems.append(f"surplus: {name} {_dims(there[name].shape)}")
        elif not _same(source, name, copies[name]):
            problems.append(
                f"surplus: {name} differs from {copies[name]}, which the model takes for both"
            )
    refuse_if_any(
        problems,
        f"{os.fspath(source.path)} does not hold the weights of this model",
        "Use the model config that the weights come with, or other weights.",
    )


def _same(source: WeightSource, one: str, other: str) -> bool:
    infos = source.tensors[one], source.tensors[other]
    if infos[0].refusal or infos[1].refusal or infos[0].shape != infos[1].shape:
        return False
    with source.tensor(one) as a, source.tensor(other) as b:
        return bool(np.array_equal(a, b))


def _place(tensor: BoundTensor) -> str:
    return tensor.path + "".join(f"[{i}]" for i in tensor.index)


def _dims(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _by_path(shardings: Any, leaves: dict[str, Any]) -> dict[str, Any]:
    is_leaf = lambda x: isinstance(x, jax.sharding.Sharding)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(shardings, is_leaf=is_leaf)
    }
    if found.keys() != leaves.keys():
        odd = ", ".join(sorted(found.keys() ^ leaves.keys()))
        raise ValueError(f"`shardings` and the model's parameters differ at: {odd}.")
    return found
