"""Small language models on meshes of virtual devices, and what one device makes of them.

    assert_equals_one_device({"schedule": "1f1b", "num_microbatches": 4}, {"pipeline": 4, "data": 2})

Axes: B batch, S sequence, M microbatches.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.calls import assert_trees_equal
from tests.causal_lm.models import V, small_config
from tests.tolerances import TOLERANCE
from trellax.config import replace_config
from trellax.layers.feed_forward import FeedForwardLayer
from trellax.layers.module import functional, total_loss
from trellax.layers.moe import MoELayer
from trellax.layers.stack import PipelinedStack, ScannedStack
from trellax.parallel import (
    MeshShape,
    build_mesh,
    fsdp_tensor_rules,
    sharding_scope,
    shardings_for,
)

S = 8


@dataclasses.dataclass(frozen=True)
class Model:
    """What a test varies; hashable, so that results are computed once."""

    num_layers: int = 4
    is_moe: bool = False
    dropout: float = 0.0

    def config(self, stack: Any = None) -> Any:
        """Returns a causal language model, its stack replaced by `stack`."""
        cfg = small_config()
        cfg.loss.z_loss_scale = 0.01
        cfg.decoder.stack.num_layers = self.num_layers
        cfg.decoder.stack.layer.dropout.rate = self.dropout
        if self.is_moe:
            moe = MoELayer.default_config().set(num_experts=4)
            assert replace_config(cfg, FeedForwardLayer, moe)
        if stack is not None:
            assert replace_config(cfg, ScannedStack, stack) == ["decoder.stack"]
        return cfg


def pipelined(**fields: Any) -> Any:
    """Returns the config of a stack."""
    return PipelinedStack.default_config().set(**fields)


def packed_batch(rows: int) -> dict[str, jax.Array]:
    """Returns rows that each have other documents, and microbatches with other numbers of targets."""
    ids_BS = jax.random.randint(jax.random.key(3), (rows, S), 0, V)
    start_B1 = jnp.arange(1, rows + 1)[:, None] % S
    second_BS = jnp.arange(S) >= start_B1
    targets_BS = jnp.roll(ids_BS, -1, axis=1).at[:, -1].set(-1).at[0].set(-1)
    return {
        "input_ids": ids_BS,
        "target_ids": targets_BS,
        "positions": jnp.where(second_BS, jnp.arange(S) - start_B1, jnp.arange(S)),
        "segment_ids": 1 + second_BS.astype(jnp.int32),
    }


def results(cfg: Any, batch: Any, mesh_sizes: dict[str, int] | None = None) -> Any:
    """Returns ((mean loss with auxiliary losses, (sums, outputs)), gradients) of a training call."""
    compiled, params = compiled_gradients(cfg, batch, mesh_sizes)
    return compiled(params, batch)


def compiled_gradients(cfg: Any, batch: Any, mesh_sizes: dict[str, int] | None = None) -> Any:
    """Returns the compiled function of (parameters, batch) that `results` calls, and parameters."""
    model = cfg.instantiate()
    params = model.init(jax.random.key(0))

    def objective(params: Any, batch: Any) -> Any:
        sums, outputs = functional(
            model, params=params, args=(batch,), prng_key=jax.random.key(1), is_training=True
        )
        loss = sums.total / jnp.maximum(sums.weight, 1.0) + total_loss(outputs)
        return loss, (sums, outputs)

    fn = jax.value_and_grad(objective, has_aux=True)
    if mesh_sizes is None:
        return jax.jit(fn).lower(params, batch).compile(), params
    with scope(mesh_sizes) as entered:
        placed = shardings_for(model.all_parameter_specs(), entered.mesh, entered.rules)
        jitted = jax.jit(fn, in_shardings=(placed, None), out_shardings=((None, None), placed))
        compiled = jitted.lower(params, batch).compile()
        return compiled, jax.device_put(params, placed)


def scope(mesh_sizes: dict[str, int]) -> Any:
    """Returns the scope of a mesh of the first devices."""
    devices = jax.devices()[: math.prod(mesh_sizes.values())]
    return sharding_scope(build_mesh(MeshShape(**mesh_sizes), devices=devices), fsdp_tensor_rules())


@functools.cache
def one_device(model: Model, rows: int = 8, num_microbatches: int = 1) -> Any:
    """Returns (loss, sums, auxiliary losses, gradients) and summaries of a `ScannedStack` on one device.

    Those of accumulated microbatches, m having rows m, m + M, …: auxiliary losses are means over targets, and not
    linear in the batch.
    """
    batch = packed_batch(rows)
    parts = [{k: x[m::num_microbatches] for k, x in batch.items()} for m in range(num_microbatches)]
    compiled, params = compiled_gradients(model.config(), parts[0])
    found = [compiled(params, part) for part in parts]
    weights = np.array([float(sums.weight) for (_, (sums, _)), _ in found])
    mean = lambda trees: jax.tree.map(
        lambda *xs: sum(w * np.asarray(x) for w, x in zip(weights, xs)) / weights.sum(), *trees
    )
    sums = jax.tree.map(lambda *xs: sum(xs), *[sums for (_, (sums, _)), _ in found])
    losses = mean([outputs.losses for (_, (_, outputs)), _ in found])
    loss = mean([loss for (loss, _), _ in found])
    summaries = [outputs.summaries for (_, (_, outputs)), _ in found]
    return (loss, sums, losses, mean([grads for _, grads in found])), summaries


def assert_equals_one_device(
    fields: dict[str, Any],
    mesh_sizes: dict[str, int],
    *,
    model: Model | None = None,
    **layer: Any,
) -> Any:
    """Fails unless a pipeline has one device's loss and gradients.

    Args:
        fields: of the stack.
        mesh_sizes: devices along axes.
        model: what is in the pipeline.
        layer: fields of each layer that change no result.

    Returns:
        The pipeline's summaries.
    """
    model = model or Model()
    cfg = model.config(pipelined(**fields))
    cfg.decoder.stack.layer.set(**layer)
    (loss, (sums, outputs)), grads = results(cfg, packed_batch(8), mesh_sizes)
    num_microbatches = fields["num_microbatches"] if model.is_moe else 1
    expected, _ = one_device(model, 8, num_microbatches)
    found = (loss, sums, outputs.losses, grads)
    assert_trees_equal(found, expected, **TOLERANCE["float32"])
    return outputs.summaries
