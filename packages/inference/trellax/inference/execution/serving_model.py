"""A model as it is served: the config that was trained, with other caches and stacks, and weights ready to be read.

    model_cfg = serving_config(trainer_cfg.model, cache=PagedCache.default_config())
    model = finalize(model_cfg).instantiate()
    params = serving_params(model, params, dtype="bfloat16", weights="int8")

Nothing else of the model changes, and no class of it is asked for: nodes are found by what they are to their parents.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from trellax.config import NoMatchError, nodes, replace_config
from trellax.kernels import matmul as matmul_kernels
from trellax.layers import BaseLayer, RepeatedStack, UnrolledStack
from trellax.layers.attention import AttentionCache, ContiguousCache

Tree = dict[str, Any]

WeightFormat = Literal["plain", "float32", "bfloat16", "int8", "int4", "int8_dynamic"]
"""How weights of matrix products are kept: "plain" as arrays of the compute type, else as `trellax.kernels.matmul` has them."""


def serving_config(model_cfg: Any, *, cache: AttentionCache.Config, unrolls: bool = True) -> Any:
    """Returns a copy of a model's config that is ready to serve.

    Args:
        model_cfg: of the model in training.
        cache: what takes the place of contiguous caches; a layout that the model chose itself stays.
        unrolls: whether each layer gets weights and caches of its own. A scanned stack copies its caches once a step, but
            compiles one layer only.
    """
    cfg = model_cfg.clone()
    for _, node in nodes(cfg):
        if "remat" in node and node.remat is not None:
            node.set(remat=None)
    _replaced(cfg, ContiguousCache, cache)
    if unrolls:
        _replaced(cfg, RepeatedStack, UnrolledStack.default_config())
    return cfg


def _replaced(cfg: Any, target: Any, new_cfg: Any) -> None:
    # Where there is none the model has another layout or stack, which is served as it is.
    with contextlib.suppress(NoMatchError):
        replace_config(cfg, target, new_cfg)


def serving_params(
    model: BaseLayer, params: Tree, *, dtype: str, weights: WeightFormat = "plain"
) -> Tree:
    """Returns the parameters as steps read them. The given ones are not needed after it.

    Args:
        model: of `serving_config`.
        params: as they were trained.
        dtype: of activations, and of plain weights.
        weights: format of the weights of matrix products.
    """
    cast = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
    params = model.unstacked(jax.tree.map(cast, params))
    if weights == "plain":
        return params
    return model.prepared(params, functools.partial(matmul_kernels.prepare, format=weights))
