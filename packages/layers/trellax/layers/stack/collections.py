"""What becomes of the outputs of repeated layers.

    stacked([collection_of_layer_0, collection_of_layer_1])

Summaries stay one a layer, losses are summed, everything else is stacked on a leading axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from trellax.layers.module import OutputCollection, averaged_summaries, averaged_updates


def stacked(collections: Sequence[OutputCollection]) -> OutputCollection:
    """Returns one collection, each array of which has a new leading axis."""
    return jax.tree.map(lambda *xs: jnp.stack(xs), *collections)


def summed(losses: dict[str, Any]) -> dict[str, Any]:
    """Returns auxiliary losses summed over the leading axis."""
    return jax.tree.map(lambda x_L: x_L.sum(axis=0), losses)


def per_layer(summaries: dict[str, Any], num: int) -> dict[str, Any]:
    """Returns {"layer0": ..., "layer1": ...} from summaries with a leading axis."""
    return {f"layer{i}": jax.tree.map(lambda x_L, i=i: x_L[i], summaries) for i in range(num)}


def averaged(collections: OutputCollection, weight_M: jax.Array) -> OutputCollection:
    """Returns one collection for microbatches, whose outputs have a leading axis M.

    Losses weigh by `weight_M`, so that they are means over targets as those of a whole batch; so do
    summaries that carry their own weights by these, and the others count alike. State updates are
    averaged (each starts from the same value), or the last one's where they are no floats.
    """
    share_M = weight_M / jnp.maximum(weight_M.sum(), 1e-9)
    return OutputCollection(
        summaries=averaged_summaries(collections.summaries),
        losses=jax.tree.map(lambda x: jnp.tensordot(share_M, x, 1), collections.losses),
        state_updates=averaged_updates(collections.state_updates),
    )
