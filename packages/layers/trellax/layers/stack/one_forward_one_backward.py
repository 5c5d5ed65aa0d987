"""1F1B: a pipeline that computes its gradients itself, to keep few microbatches' activations.

    sums, layer_outputs_ML, then_outputs_M = one_forward_one_backward(stage, then, weights, x_MBSD, plan)

PipeDream-flush (Narayanan et al. 2020, arXiv:2006.09503, section 2.2; Harlap et al. 2018, arXiv:1806.03377). Stage s
runs the forward pass of microbatch t - s in tick t, and in the same tick the backward pass of microbatch
t - 2 (P - 1) + s, so the last stage turns round at once. Three loops in lockstep, without branches: P - 1 ticks of
forward passes, M ticks of both, P - 1 ticks of backward passes. A backward pass starts from the stage's stashed
input and computes the stage again; 2 P - 1 inputs are stashed, whatever M is.

JAX's automatic differentiation runs all of a forward pass first, so this order needs a rule of its own
(`jax.custom_vjp`): the loss is part of the pipeline, and its gradients are ready when it is.

Axes: M microbatches, P stages, K layers of a chunk, R slots of the stash, Q parts, B rows of a microbatch, S sequence, D model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.layers.module import OutputCollection, total_loss
from trellax.layers.stack.captured import Floats, captured
from trellax.layers.stack.microbatches import join_rows
from trellax.layers.stack.rotation import STREAM, Stage, on_parts, on_stages, parted, placed
from trellax.layers.stack.stages import StagePlan
from trellax.parallel import constrain

Tree = Any
Then = Callable[[Array, Array], tuple[Any, list[OutputCollection]]]
"""(rows of x_BSD, index of the part) -> (named tuple (total, weight), what modules have added)."""


def one_forward_one_backward(
    stage: Stage,
    then: Then,
    weights: Tree,
    x_MBSD: Float[Array, "M B S D"],
    plan: StagePlan,
    *,
    parts: int,
    place: Callable[[Tree], Tree],
) -> tuple[Any, Any, Tree, Tree]:
    """Returns the loss, of which gradients can be taken, and what modules have added.

    The gradient of `total` is that of Σ_m (total_m + weight_m · auxiliary losses_m): divided by the sum of weights it
    is the gradient of the mean loss plus the mean auxiliary loss, as of microbatches that are accumulated.

    Args:
        stage: runs one chunk.
        then: makes the loss of what comes out of the last stage.
        weights: arrays `[P, K, ...]`.
        x_MBSD: what goes into the first stage.
        plan: who does what; one round.
        parts: Q, parts of a microbatch that `then` is called on, by as many stages if they are several. Part q of
            microbatch m has its rows q, q + Q, … and the index m + M · q.
        place: tells how arrays that are like the weights lie on the devices.

    Returns:
        (sums, sums_MQ, what layers have put out `[M, L, ...]`, what `then` has added `[M, Q, ...]`): gradients flow
        through `sums.total` alone.
    """
    leaves, treedef = jax.tree.flatten(weights)
    chunk = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape[1:], w.dtype), weights)
    zero = jnp.zeros([], jnp.int32)
    pure_stage, stage_used = captured(stage, chunk, x_MBSD[0], zero)
    pure_then, then_used = captured(then, x_MBSD[0, : x_MBSD.shape[1] // parts], zero)
    pipeline = _Pipeline(
        plan=plan,
        stage=lambda used, leaves, *args: pure_stage(
            used, jax.tree.unflatten(treedef, leaves), *args
        ),
        then=pure_then,
        parts=parts,
        place=lambda leaves: jax.tree.leaves(place(jax.tree.unflatten(treedef, leaves))),
        floats=tuple(map(Floats, (leaves, stage_used, then_used))),
    )

    @jax.custom_vjp
    def run(*arrays: Any) -> Any:
        return pipeline.run(*arrays)[0]

    run.defvjp(lambda *arrays: pipeline.run(*arrays), pipeline.scaled)
    sums, others = run(leaves, stage_used, then_used, x_MBSD)
    sums_MQ, outputs_ML, found_MQ = jax.lax.stop_gradient(others)
    return sums, sums_MQ, outputs_ML, found_MQ


@dataclasses.dataclass
class _Step:
    """The arrays that one tick works on; all of them are replaced, none is changed."""

    leaves: Any
    stage_used: Any
    then_used: Any
    x_MBSD: Array


@dataclasses.dataclass(frozen=True)
class _Pipeline:
    """The program: what each tick does. Its state is a dict of arrays:

    x: `[P, B, S, D]`, inputs of stages. g: gradients of their outputs. stash: `[R, P, B, S, D]`, inputs of earlier
    ticks; tick t is in slot t modulo R. weight_M: weights of microbatches that are through. grads: gradients so far
    of weights, of what the stages use (both float32, with an axis P), of what `then` uses (float32, with an axis Q:
    added up at the end, not in each tick) and of `x_MBSD`.
    """

    plan: StagePlan
    stage: Callable[..., Any]
    then: Callable[..., Any]
    parts: int
    place: Callable[[list[Array]], list[Array]]
    floats: tuple[Floats, ...]

    def run(self, leaves: Any, stage_used: Any, then_used: Any, x_MBSD: Array) -> tuple[Any, Any]:
        """Returns (results, gradients of the loss)."""
        on = _Step(leaves, stage_used, then_used, x_MBSD)
        turn, end = self.plan.stages - 1, self.plan.ticks
        state, early = jax.lax.scan(
            lambda state, t: self._fill(on, state, t), self._start(on), jnp.arange(turn)
        )
        state, (outputs, (sums_MQ, found_MQ)) = jax.lax.scan(
            lambda state, t: self._steady(on, state, t), state, jnp.arange(turn, end)
        )
        state, _ = jax.lax.scan(
            lambda state, t: self._drain(on, state, t), state, jnp.arange(end, end + turn)
        )
        outputs = jax.tree.map(lambda *ticks: jnp.concatenate(ticks), early, outputs)
        sums = jax.tree.map(lambda x: x.sum(), sums_MQ)
        return (sums, (sums_MQ, self.plan.by_layer(outputs), found_MQ)), self._gradients(state)

    def scaled(self, gradients: Any, cotangents: Any) -> tuple[Any, ...]:
        """Returns the gradients times that of `sums.total`, in the types of the arrays."""
        by = cotangents[0].total
        *lists, x_MBSD = jax.tree.map(lambda g: g * by.astype(g.dtype), gradients)
        return *(floats.gradients(g) for floats, g in zip(self.floats, lists)), x_MBSD

    # ---- ticks ----------------------------------------------------------------------------------

    def _fill(self, on: _Step, state: Tree, t: Array) -> tuple[Tree, Any]:
        state, _, outputs = self._forward(on, state, t)
        return state, outputs

    def _steady(self, on: _Step, state: Tree, t: Array) -> tuple[Tree, Any]:
        state, y_BSD, outputs = self._forward(on, state, t)
        state, g_BSD, found = self._turn(on, state, y_BSD, t)
        return self._backward(on, state, g_BSD, t), (outputs, found)

    def _drain(self, on: _Step, state: Tree, t: Array) -> tuple[Tree, None]:
        return self._backward(on, state, jnp.zeros_like(on.x_MBSD[0]), t), None

    def _start(self, on: _Step) -> Tree:
        P, R = self.plan.stages, 2 * self.plan.stages - 1
        # Stages repeat real work until theirs arrives: zeros could make infinities.
        x_PBSD = placed(jnp.broadcast_to(on.x_MBSD[0], (P, *on.x_MBSD.shape[1:])))
        zeros = lambda x: jnp.zeros(x.shape, jnp.float32)
        lanes = lambda x, num: jnp.zeros((num, *x.shape), jnp.float32)
        of_weights, of_stage, of_then = self.floats
        accumulators = [zeros(x) if f else x for x, f in zip(on.leaves, of_weights.mask)]
        return {
            "x": x_PBSD,
            "g": jnp.zeros_like(x_PBSD),
            "stash": _stash_placed(jnp.broadcast_to(x_PBSD, (R, *x_PBSD.shape))),
            "weight_M": jnp.zeros(self.plan.microbatches, jnp.float32),
            "of_weights": of_weights.of(self.place(accumulators)),
            "of_stage": [lanes(x, P) for x in of_stage.of(on.stage_used)],
            "of_then": [lanes(x, self.parts) for x in of_then.of(on.then_used)],
            "of_x": jnp.zeros_like(on.x_MBSD),
        }

    def _gradients(self, state: Tree) -> tuple[Any, ...]:
        added_up = lambda name: [g.sum(axis=0) for g in state[name]]
        return state["of_weights"], added_up("of_stage"), added_up("of_then"), state["of_x"]

    def _forward(self, on: _Step, state: Tree, t: Array) -> tuple[Tree, Array, Any]:
        """Stage s runs microbatch t - s."""
        stage_P = jnp.arange(self.plan.stages)
        fresh_BSD = on.x_MBSD[self.plan.clipped(t)]
        enter = on_stages(lambda s, x: jnp.where(s == 0, fresh_BSD, x))
        x_PBSD = placed(enter(stage_P, state["x"]))
        run = on_stages(self.stage, in_axes=(None, 0, 0, 0))
        index_P = self.plan.clipped(t - stage_P)
        y_PBSD, outputs = run(on.stage_used, on.leaves, x_PBSD, index_P)
        stash = jax.lax.dynamic_update_index_in_dim(
            state["stash"], x_PBSD, t % state["stash"].shape[0], 0
        )
        new = {"x": placed(jnp.roll(y_PBSD, 1, axis=0)), "stash": _stash_placed(stash)}
        return state | new, constrain(y_PBSD[-1], STREAM), outputs

    def _turn(self, on: _Step, state: Tree, y_BSD: Array, t: Array) -> tuple[Tree, Array, Any]:
        """The loss of the microbatch that leaves the last stage, and its gradients."""
        index = t - (self.plan.stages - 1)
        lanes = on_parts(lambda *part: self._turn_lane(on, *part), self.parts)
        index_Q = index + self.plan.microbatches * jnp.arange(self.parts)
        of_then, g_QBSD, sums_Q, found_Q = lanes(index_Q, parted(y_BSD, self.parts))
        new = {
            "weight_M": state["weight_M"].at[index].set(sums_Q.weight.sum()),
            "of_then": _added(state["of_then"], of_then),
        }
        return state | new, constrain(join_rows(g_QBSD), STREAM), (sums_Q, found_Q)

    def _turn_lane(self, on: _Step, index: Array, y_BSD: Array) -> tuple[Any, Array, Any, Any]:
        """Returns the gradients of what `then` uses and of its input, its result and what it has added."""
        floats = self.floats[2]

        def objective(values: Any, y_BSD: Array) -> tuple[Array, Any]:
            sums, found = self.then(floats.replaced(on.then_used, values), y_BSD, index)
            auxiliary = sum((total_loss(outputs) for outputs in found), 0.0)
            return sums.total + jax.lax.stop_gradient(sums.weight) * auxiliary, (sums, found)

        loss, vjp, others = jax.vjp(objective, floats.of(on.then_used), y_BSD, has_aux=True)
        return *vjp(jnp.ones_like(loss)), *others

    def _backward(self, on: _Step, state: Tree, g_BSD: Array, t: Array) -> Tree:
        """Stage s runs the backward pass of microbatch t - 2 (P - 1) + s."""
        stage_P = jnp.arange(self.plan.stages)
        lanes = on_stages(
            lambda *lane: self._backward_lane(on, state["weight_M"], g_BSD, t, *lane),
            in_axes=(0, 0, 0, 1),
        )
        of_weights, of_stage, g_PBSD = lanes(stage_P, on.leaves, state["g"], state["stash"])
        first = self.plan.clipped(t - 2 * (self.plan.stages - 1))
        # While the first microbatch has not come through this writes zeros, to where it will write.
        of_x = jax.lax.dynamic_update_index_in_dim(state["of_x"], g_PBSD[0], first, 0)
        return state | {
            "g": placed(jnp.roll(g_PBSD, -1, axis=0)),
            "of_weights": _added(state["of_weights"], of_weights),
            "of_stage": _added(state["of_stage"], of_stage),
            "of_x": of_x,
        }

    def _backward_lane(
        self,
        on: _Step,
        weight_M: Array,
        last_BSD: Array,
        t: Array,
        stage_index: Array,
        leaves: list[Array],
        g_BSD: Array,
        stash_RBSD: Array,
    ) -> tuple[Any, Any, Array]:
        """Returns the gradients of one stage's weights, of what it uses, and of its input."""
        last = self.plan.stages - 1
        entry = t - 2 * last + stage_index
        index, is_real = self.plan.clipped(entry), self.plan.is_real(entry)
        x_BSD = stash_RBSD[(entry + stage_index) % stash_RBSD.shape[0]]
        of_weights, of_stage, _ = self.floats

        def objective(values: Any, used: Any, x_BSD: Array) -> tuple[Array, Array]:
            used = of_stage.replaced(on.stage_used, used)
            y_BSD, outputs = self.stage(used, of_weights.replaced(leaves, values), x_BSD, index)
            return y_BSD, jnp.asarray(total_loss(outputs), jnp.float32)

        _, vjp = jax.vjp(objective, of_weights.of(leaves), of_stage.of(on.stage_used), x_BSD)
        g_BSD = jnp.where(stage_index == last, last_BSD, g_BSD)
        g_BSD = jnp.where(is_real, g_BSD, jnp.zeros_like(g_BSD))
        return vjp((g_BSD, jnp.where(is_real, weight_M[index], 0.0)))


def _stash_placed(stash_RPBSD: Array) -> Array:
    return on_stages(lambda x: constrain(x, (None, *STREAM)), in_axes=1, out_axes=1)(stash_RPBSD)


def _added(totals: list[Array], new: list[Array]) -> list[Array]:
    return [total + x.astype(total.dtype) for total, x in zip(totals, new, strict=True)]
