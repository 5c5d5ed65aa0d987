"""What becomes of the outputs of repeated layers.

    stacked([collection_of_layer_0, collection_of_layer_1])

Summaries stay one a layer, losses are summed, everything else is stacked on a leading axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from trellax.layers.module import OutputCollection


def stacked(collections: Sequence[OutputCollection]) -> OutputCollection:
    """Returns one collection, each array of which has a new leading axis."""
    return jax.tree.map(lambda *xs: jnp.stack(xs), *collections)


def summed(losses: dict[str, Any]) -> dict[str, Any]:
    """Returns auxiliary losses summed over the leading axis."""
    return jax.tree.map(lambda x_L: x_L.sum(axis=0), losses)


def per_layer(summaries: dict[str, Any], num: int) -> dict[str, Any]:
    """Returns {"layer0": ..., "layer1": ...} from summaries with a leading axis."""
    return {f"layer{i}": jax.tree.map(lambda x_L, i=i: x_L[i], summaries) for i in range(num)}
