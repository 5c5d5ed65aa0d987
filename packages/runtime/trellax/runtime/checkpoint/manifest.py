"""The manifest of a step: path, shape and dtype of each array, and the caller's extra values.

    differences(Manifest.read(step_dir).arrays, describe(named_leaves(target)))

Paths are those of configs: `params.decoder.layers.attention.q_proj.weight`, `learner_state[1].mu`.
A leaf is stored under its path alone, so containers of any kind (named tuples, dataclasses,
empty dictionaries, None) leave no trace in the files: their structure comes from the target.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

FILENAME = "manifest.json"
FORMAT = 1
Key = str | int


@dataclasses.dataclass(frozen=True)
class ArrayInfo:
    """What is known of an array without reading it.

    Attributes:
        shape: its global shape.
        dtype: the name of its type, for example "bfloat16".
        keys: the steps from the root of the tree to it.
    """

    shape: tuple[int, ...]
    dtype: str
    keys: tuple[Key, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a step holds.

    Attributes:
        step: the number of the step.
        arrays: by path.
        extra: JSON values that the caller of `save` added.
    """

    step: int
    arrays: Mapping[str, ArrayInfo]
    extra: Mapping[str, Any]

    def to_json(self) -> str:
        """Returns the text of the file.

        Raises:
            TypeError: if `extra` holds something that JSON does not.
        """
        arrays = {
            path: {"shape": list(info.shape), "dtype": info.dtype, "keys": list(info.keys)}
            for path, info in self.arrays.items()
        }
        whole = {"format": FORMAT, "step": self.step, "extra": self.extra, "arrays": arrays}
        return json.dumps(whole, indent=1) + "\n"

    @classmethod
    def read(cls, step_dir: Path) -> Manifest:
        """Reads the manifest of the step in `step_dir`."""
        whole = json.loads((step_dir / FILENAME).read_text())
        arrays = {
            path: ArrayInfo(tuple(info["shape"]), info["dtype"], tuple(info["keys"]))
            for path, info in whole["arrays"].items()
        }
        return cls(step=whole["step"], arrays=arrays, extra=whole["extra"])


@dataclasses.dataclass(frozen=True)
class NamedLeaves:
    """The leaves of a tree by path, and the way back to the tree."""

    leaves: Mapping[str, Any]
    infos: Mapping[str, ArrayInfo]
    treedef: Any

    def unflatten(self, leaves: Mapping[str, Any]) -> Any:
        """Returns a tree of this structure with `leaves`, which has the same paths."""
        return jax.tree_util.tree_unflatten(self.treedef, [leaves[path] for path in self.leaves])


def named_leaves(tree: Any) -> NamedLeaves:
    """Names the leaves of `tree` and describes them.

    Raises:
        TypeError: listing every leaf that is neither an array nor a `ShapeDtypeStruct`.
    """
    with_keys, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves, infos, refused = {}, {}, []
    for entries, leaf in with_keys:
        keys = tuple(_key(entry) for entry in entries)
        path = format_keys(keys)
        if not _is_array_like(leaf):
            refused.append(f"\n  {path}: {type(leaf).__qualname__}")
            continue
        leaves[path] = leaf
        infos[path] = ArrayInfo(tuple(leaf.shape), str(leaf.dtype), keys)
    if refused:
        raise TypeError(
            "Checkpoints hold arrays only; make these jax or numpy arrays (a typed random key: "
            f"jax.random.key_data) or leave them out:{''.join(refused)}"
        )
    return NamedLeaves(leaves, infos, treedef)


def differences(saved: Mapping[str, ArrayInfo], wanted: Mapping[str, ArrayInfo]) -> list[str]:
    """Returns one line for each path where the two are not the same."""
    lines = [
        f"missing in the checkpoint: {path} {wanted[path]}" for path in wanted if path not in saved
    ]
    lines += [f"not asked for: {path} {saved[path]}" for path in saved if path not in wanted]
    for path in wanted:
        if path in saved and saved[path].shape != wanted[path].shape:
            lines.append(f"shape: {path} is {saved[path]}, asked for {wanted[path]}")
        elif path in saved and saved[path].dtype != wanted[path].dtype:
            lines.append(f"dtype: {path} is {saved[path]}, asked for {wanted[path]}")
    return lines


def subtree(arrays: Mapping[str, ArrayInfo], prefix: str) -> dict[str, ArrayInfo]:
    """Returns the arrays at or below `prefix` ("" is the root), by the path from there."""
    found = {}
    for info in arrays.values():
        for depth in range(len(info.keys) + 1):
            if format_keys(info.keys[:depth]) == prefix:
                relative = dataclasses.replace(info, keys=info.keys[depth:])
                found[format_keys(relative.keys)] = relative
    return found


def join(prefix: str, path: str) -> str:
    """Returns the full path of `path`, which begins at `prefix`."""
    return f"{prefix}.{path}" if prefix and path and path[0] != "[" else prefix + path


def format_keys(keys: tuple[Key, ...]) -> str:
    """Returns the path that `keys` lead along: `layers[0].norm`, `['a key']`."""
    path = ""
    for key in keys:
        step = key if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"
        path = join(path, step)
    return path


def _is_array_like(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        return False
    return not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) and leaf.dtype != np.object_


def _key(entry: Any) -> Key:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            key = getattr(entry, attribute)
            return key if isinstance(key, str | int) else repr(key)
    return str(entry)
