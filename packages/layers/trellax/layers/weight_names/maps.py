"""`WeightMap`: which tensor of somebody else's file is which parameter of ours, as data.

    llama = WeightMap("llama", (Entry("decoder.embedding.weight", "model.embed_tokens.weight", "V D -> V D"), …))
    for tensor in llama.bind(model.all_parameter_specs()):
        tensor.name, tensor.path, tensor.index, tensor.pattern

A name may hold {l} (the layer) and {e} (the expert), which we stack on leading dims in this order: each index is a
tensor of theirs. The map is used both ways.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax

from trellax.layers.base import is_spec
from trellax.layers.weight_names.pattern import BoundPattern, ShapePattern


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter of ours and the tensors that it is made of.

    Attributes:
        path: of our parameter.
        name: of their tensor, with "{l}" and "{e}" where there is one for each layer and expert.
        pattern: see `ShapePattern`, of one tensor.
    """

    path: str
    name: str
    pattern: str

    def __post_init__(self) -> None:
        ShapePattern(self.pattern)
        unknown = set(re.findall(r"{(.*?)}", self.name)) - {"l", "e"}
        if unknown:
            raise ValueError(
                f"{self.name}: unknown index {sorted(unknown)}; there are {{l}}, {{e}}."
            )

    @property
    def indices(self) -> tuple[str, ...]:
        """Names of our leading dims: ("l", "e"), or fewer."""
        return tuple(index for index in ("l", "e") if f"{{{index}}}" in self.name)


@dataclasses.dataclass(frozen=True)
class BoundTensor:
    """One tensor of theirs, and its place in a model of ours.

    Attributes:
        name: theirs.
        path: of our parameter.
        index: its place on the parameter's leading, stacked dims.
        pattern: how the rest is arranged.
    """

    name: str
    path: str
    index: tuple[int, ...]
    pattern: BoundPattern

    @property
    def shape(self) -> tuple[int, ...]:
        """Their shape."""
        return self.pattern.their_shape


@dataclasses.dataclass(frozen=True)
class WeightMap:
    """All parameters of a family of models.

    Attributes:
        family: its name.
        entries: one for each parameter that a model of the family may have.
        copies: names of tensors that some files have besides, and of the tensor that they repeat.
        derived: names of tensors that some files have though they follow from hyperparameters.
    """

    family: str
    entries: tuple[Entry, ...]
    copies: tuple[tuple[str, str], ...] = ()
    derived: tuple[str, ...] = ()

    def bind(self, specs: Any) -> tuple[BoundTensor, ...]:
        """Returns the tensors of a model, in the order of the entries, layers and experts.

        Args:
            specs: tree of our parameters: specs, arrays or whatever else has a shape.

        Raises:
            ValueError: listing the parameters that no entry or several entries name, or whose shape fits no pattern.
        """
        shapes = parameter_shapes(specs)
        used = [entry for entry in self.entries if entry.path in shapes]
        count = Counter(entry.path for entry in used)
        problems = [f"{path}: not in the map" for path in shapes if path not in count]
        problems += [f"{path}: {n} entries" for path, n in count.items() if n > 1]
        tensors: list[BoundTensor] = []
        for entry in used:
            try:
                tensors += _bound(entry, shapes[entry.path])
            except ValueError as e:
                problems.append(f"{entry.path}: {e}")
        if problems:
            raise ValueError(
                f"These parameters have no place in weights of the family {self.family!r}:\n  "
                + "\n  ".join(problems)
            )
        return tuple(tensors)

    def is_derived(self, name: str) -> bool:
        """Whether a tensor of this name follows from hyperparameters."""
        return any(re.fullmatch(_as_regex(pattern), name) for pattern in self.derived)


def parameter_shapes(specs: Any) -> dict[str, tuple[int, ...]]:
    """Returns {path: shape} of a tree of parameters, specs or shapes."""
    return {path: tuple(leaf.shape) for path, leaf in parameter_leaves(specs).items()}


def parameter_leaves(specs: Any) -> dict[str, Any]:
    """Returns {path: leaf} of a tree of parameters or specs."""
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec)
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in leaves}


def parameter_tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dictionaries of {path: leaf}."""
    root: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split(".")
        node = root
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return root


def _bound(entry: Entry, shape: Sequence[int]) -> Iterator[BoundTensor]:
    num_leading = len(entry.indices)
    pattern = ShapePattern(entry.pattern).bound(shape[num_leading:])
    for index in itertools.product(*(range(size) for size in shape[:num_leading])):
        name = entry.name.format(**dict(zip(entry.indices, index)))
        yield BoundTensor(name, entry.path, index, pattern)


def _as_regex(name: str) -> str:
    return re.escape(name).replace(r"\{l\}", r"\d+").replace(r"\{e\}", r"\d+")
