"""How tests build layers and call them.

layer, params = built(Linear.default_config().set(input_dim=4, output_dim=6))
y, collection = called(layer, params, x)
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from trellax.layers.module import functional


def built(cfg: Any, seed: int = 0) -> tuple[Any, Any]:
    """Returns (layer, parameters)."""
    layer = cfg.instantiate(name="root")
    return layer, layer.init(jax.random.key(seed))


def called(
    layer: Any,
    params: Any,
    *args: Any,
    seed: int | None = 1,
    training: bool = False,
    **options: Any,
) -> tuple[Any, Any]:
    """Returns (result, output collection) of a call with a key made of `seed`."""
    key = None if seed is None else jax.random.key(seed)
    return functional(
        layer, params=params, args=args, prng_key=key, is_training=training, **options
    )


def assert_trees_equal(ours: Any, theirs: Any, **tolerance: float) -> None:
    """Fails unless both trees have the same paths and equal arrays (within the tolerance)."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs)):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, err_msg=name, **(tolerance or {"rtol": 0.0, "atol": 0.0}))


def draws(seed: int, *shape: int, dtype: str = "float32") -> jax.Array:
    """Returns standard normal values."""
    return jax.random.normal(jax.random.key(seed), shape, dtype)
