"""A forward pass through a pipeline, for JAX to differentiate: GPipe and its circular form.

    y_MBSD, outputs_ML = rotate(stage, weights, x_MBSD, plan)

All stages are one program (`jax.vmap` with `spmd_axis_name`), and what they pass on is one array whose leading axis
is split over them: rolling it by one sends each stage's result to the next one.

Axes: M microbatches, P stages, V repeats, K layers of a chunk, B rows of a microbatch, S sequence, D model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.layers.stack.microbatches import split_rows
from trellax.layers.stack.stages import StagePlan
from trellax.parallel import constrain

AXIS = "pipeline"
STREAM = ("batch", "residual_length", "act_embed")

Stage = Callable[..., tuple[Any, Any]]
"""(weights of a chunk `[K, ...]`, x_BSD, index of the microbatch) -> (x_BSD, outputs `[K, ...]`)."""


def on_stages(fn: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """Returns `fn` for arrays with an axis of stages, each of which computes its part."""
    return jax.vmap(fn, in_axes=in_axes, out_axes=out_axes, spmd_axis_name=AXIS)


def placed(x_PBSD: Array) -> Array:
    """Returns an array, which every stage has a part of, where the stages are."""
    return on_stages(lambda x: constrain(x, STREAM))(x_PBSD)


def on_parts(fn: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """Returns `fn` for arrays with an axis of parts: as many as stages, each of which computes one, or a single one."""
    return on_stages(fn) if parts > 1 else jax.vmap(fn)


def parted(x_BSD: Array, parts: int) -> Array:
    """Returns the rows of a microbatch as `[parts, B / parts, S, D]`, where the parts are computed."""
    return on_parts(lambda x: constrain(x, STREAM), parts)(split_rows(x_BSD, parts))


def rotate(
    stage: Stage, weights: Any, x_MBSD: Float[Array, "M B S D"], plan: StagePlan
) -> tuple[Float[Array, "M B S D"], Any]:
    """Returns what comes out of the last stage, and what layers have put out `[M, L, ...]`.

    Args:
        stage: runs one chunk.
        weights: arrays `[P, V, K, ...]`.
        x_MBSD: what goes into the first stage.
        plan: who does what.
    """
    stage_P = jnp.arange(plan.stages)

    def lane(weights: Any, x_BSD: Array, stage_index: Array, tick: Array, fresh_BSD: Array) -> Any:
        index, rounds = plan.microbatch_at(plan.clipped(tick - stage_index))
        enters = (stage_index == 0) & (rounds == 0)
        return stage(_chunk(weights, rounds), jnp.where(enters, fresh_BSD, x_BSD), index)

    def tick(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], Any]:
        x_PBSD, y_MBSD = carry
        fresh_BSD = _at(x_MBSD, plan.microbatch_at(plan.clipped(t))[0])
        lanes = on_stages(lane, in_axes=(0, 0, 0, None, None))
        x_PBSD, outputs = lanes(weights, x_PBSD, stage_P, t, fresh_BSD)
        x_PBSD = placed(x_PBSD)
        y_MBSD = _put(y_MBSD, x_PBSD[-1], t - (plan.stages - 1), plan)
        return (placed(jnp.roll(x_PBSD, 1, axis=0)), y_MBSD), outputs

    start_PBSD = placed(jnp.broadcast_to(x_MBSD[0], (plan.stages, *x_MBSD.shape[1:])))
    carry = (jax.lax.stop_gradient(start_PBSD), jnp.zeros_like(x_MBSD))
    (_, y_MBSD), outputs = jax.lax.scan(tick, carry, jnp.arange(plan.ticks))
    return y_MBSD, plan.by_layer(outputs)


def _chunk(weights: Any, rounds: Array) -> Any:
    """Returns the chunk `[K, ...]` that is next, of a stage's `[V, K, ...]`."""
    return jax.tree.map(lambda w: w[0] if w.shape[0] == 1 else _at(w, rounds), weights)


def _put(y_MBSD: Array, y_BSD: Array, entry: Array, plan: StagePlan) -> Array:
    """Stores what has left the last stage, if it has been through all rounds."""
    index, rounds = plan.microbatch_at(plan.clipped(entry))
    is_through = plan.is_real(entry) & (rounds == plan.repeats - 1)
    y_BSD = jnp.where(is_through, y_BSD, _at(y_MBSD, index))
    return jax.lax.dynamic_update_index_in_dim(y_MBSD, y_BSD, index, 0)


def _at(x: Array, index: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(x, index, keepdims=False)
