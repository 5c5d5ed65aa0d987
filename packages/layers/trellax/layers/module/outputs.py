"""What a call leaves behind besides its result: summaries, outputs, state updates, losses.

Each is a tree keyed by child names, so that a parent never has to know what its children add.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Tree = dict[str, Any]


class WeightedScalar(NamedTuple):
    """A mean with the weight (number of targets, examples) that it was taken over.

    Both are float32 scalars. Means over microbatches, batches and hosts weigh by it.
    """

    mean: jax.Array
    weight: jax.Array


@dataclasses.dataclass
class OutputCollection:
    """Trees of what the modules of one call added, keyed by child names.

    Attributes:
        summaries: scalars or `WeightedScalar`s to be logged.
        module_outputs: arrays that tests or probes ask for.
        state_updates: new values of entries of the module state, at the same paths.
        losses: auxiliary loss terms, float32 scalars, already scaled.
    """

    summaries: Tree = dataclasses.field(default_factory=dict)
    module_outputs: Tree = dataclasses.field(default_factory=dict)
    state_updates: Tree = dataclasses.field(default_factory=dict)
    losses: Tree = dataclasses.field(default_factory=dict)

    def adopt(self, name: str, child: OutputCollection, *, state_name: str | None = None) -> None:
        """Takes the non-empty trees of a child's call in.

        Args:
            name: the call's name; a second call of the same child has another one.
            child: what the call added.
            state_name: the child's name in the state tree, if it is not `name`.

        Raises:
            ValueError: if outputs of that name are there already.
        """
        for field in FIELDS:
            tree = getattr(child, field)
            if not tree:
                continue
            key = (state_name or name) if field == "state_updates" else name
            ours = getattr(self, field)
            if key in ours:
                raise ValueError(f"Two calls in one call both give {field} called {key!r}.")
            ours[key] = tree


FIELDS = tuple(f.name for f in dataclasses.fields(OutputCollection))

jax.tree_util.register_dataclass(OutputCollection, data_fields=list(FIELDS), meta_fields=[])


def total_loss(collection: OutputCollection) -> jax.Array | float:
    """Returns the sum of all auxiliary losses (0.0 if there are none)."""
    return sum((x.sum() for x in jax.tree.leaves(collection.losses)), 0.0)


def with_updates(tree: Any, updates: Any) -> Any:
    """Returns `tree` with the entries that `updates` has replaced, at any depth.

    Both are nested dicts, and tuples of them for layers that are kept apart.
    """
    if isinstance(updates, tuple):
        return tuple(with_updates(*pair) for pair in zip(tree, updates, strict=True))
    if not isinstance(updates, dict):
        return updates
    return tree | {name: with_updates(tree[name], value) for name, value in updates.items()}


def averaged_summaries(summaries: Tree) -> Tree:
    """Returns summaries of microbatches, a leading axis M, as those of one call.

    A `WeightedScalar` weighs by its own weights, [M], which add up; others, [M, ...], count alike.
    """
    return jax.tree.map(
        _averaged_summary, summaries, is_leaf=lambda x: isinstance(x, WeightedScalar)
    )


def _averaged_summary(value: Any) -> Any:
    if not isinstance(value, WeightedScalar):
        return value.mean(axis=0)
    weight = value.weight.sum(axis=0)
    mean = (value.mean * value.weight).sum(axis=0) / jnp.maximum(weight, 1e-9)
    return WeightedScalar(mean, weight)


def averaged_updates(updates: Tree) -> Tree:
    """Returns state updates of microbatches, a leading axis M, as one: each started from the same value.

    Floats are averaged; of others the last one's counts.
    """
    return jax.tree.map(
        lambda x_M: x_M.mean(axis=0) if jnp.issubdtype(x_M.dtype, jnp.floating) else x_M[-1],
        updates,
    )
