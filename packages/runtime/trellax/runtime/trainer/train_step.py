"""The train step: one pure function of (state, batch), jitted once, that owns all device work.

    step_fn = TrainStep(model, learner, ...)
    state, metrics = step_fn(state, batch)

The state is a dict of trees: `step` (int32), `params`, `learner` and `health` (int32 counters of
updates that were skipped because the loss or a gradient was not finite).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from trellax.layers import (
    BaseLayer,
    OutputCollection,
    ParameterSpec,
    WeightedScalar,
    averaged_summaries,
    averaged_updates,
    fold_in_name,
    functional,
    is_spec,
    total_loss,
    with_updates,
)
from trellax.runtime.learner import Learner, StateSpec

Tree = dict[str, Any]


class TrainStep:
    """Computes gradients over microbatches, updates, and guards against non-finite values."""

    __name__ = "train_step"  # What JAX, the compiler's messages and profiles call the program.

    def __init__(
        self,
        model: BaseLayer,
        learner: Learner,
        *,
        seed: int,
        compute_dtype: str = "float32",
        accumulation_steps: int = 1,
        prng_implementation: str = "threefry2x32",
    ):
        """
        Args:
            model: its `forward(batch)` returns the summed loss and the number of targets.
            learner: updates the parameters.
            seed: root of all randomness; the key of a step is a function of (seed, step).
            compute_dtype: floating parameters are cast to it for the forward and backward pass, but for those that
                modules update themselves.
            accumulation_steps: microbatches a step; each is a slice of the batch.
            prng_implementation: what makes random bits, as `jax.random.key` takes it.
        """
        self._model = model
        self._learner = learner
        self._seed = seed
        self._compute_dtype = compute_dtype
        self._accumulation_steps = accumulation_steps
        self._prng_implementation = prng_implementation

    # ---- state ----------------------------------------------------------------------------------

    def init(self) -> Tree:
        """Returns the state before the first step; a function of the seed alone."""
        params = self._model.init(fold_in_name(self._root_key(), "init"))
        return {
            "step": jnp.zeros([], jnp.int32),
            "params": params,
            "learner": self._learner.init(params),
            "health": {
                "skipped": jnp.zeros([], jnp.int32),
                "consecutive": jnp.zeros([], jnp.int32),
            },
        }

    def state_specs(self) -> Tree:
        """Returns the tree of specs (shape, dtype, logical axes) of the state."""
        counter = StateSpec((), "int32", ())
        return {
            "step": counter,
            "params": self._model.all_parameter_specs(),
            "learner": self._learner.state_specs(),
            "health": {"skipped": counter, "consecutive": counter},
        }

    # ---- one step -------------------------------------------------------------------------------

    def __call__(self, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        """Takes one step.

        Args:
            state: see `init`; donate it.
            batch: arrays `[B, ...]`.

        Returns:
            (new state, metrics): metrics is a flat dict of float32 arrays; `loss` is the mean over
            targets, `skipped_steps` and `consecutive_skips` count non-finite steps.
        """
        key = jax.random.fold_in(self._root_key(), state["step"])
        grads, metrics, updates = self._gradients(state["params"], batch, key)
        params, learner_state, learner_metrics = self._learner.update(
            grads, state["learner"], state["params"]
        )
        # A module's state updates are for its parameters that the learner does not train.
        params = with_updates(params, updates)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(learner_metrics["grad_norm"])
        health = _count_skip(state["health"], finite)
        new_state = {
            "step": state["step"] + 1,
            "params": _keep_if(finite, params, state["params"]),
            "learner": _keep_if(finite, learner_state, state["learner"]),
            "health": health,
        }
        metrics |= learner_metrics
        metrics["skipped_steps"] = health["skipped"]
        metrics["consecutive_skips"] = health["consecutive"]
        return new_state, metrics

    def _root_key(self) -> jax.Array:
        return jax.random.key(self._seed, impl=self._prng_implementation)

    def _gradients(self, params: Tree, batch: Tree, key: jax.Array) -> tuple[Tree, Tree, Tree]:
        trained, frozen = self._learner.split(params)
        if self._accumulation_steps == 1:
            grad_fn = jax.grad(self._objective, has_aux=True)
            grads, (sums, collection) = grad_fn(trained, frozen, batch, key, True)
        else:
            grads, (sums, collection) = self._accumulated(trained, frozen, batch, key)
        metrics = _mean_metrics(sums) | _flat_summaries(collection.summaries)
        return grads, metrics, collection.state_updates

    def _objective(
        self, trained: Tree, frozen: Tree, batch: Tree, key: jax.Array, as_mean: bool
    ) -> tuple[jax.Array, tuple[Tree, OutputCollection]]:
        """Returns the loss that is differentiated: a mean over targets, or (to be accumulated) the
        sum that becomes one when it is divided by all targets of the step."""
        params = self._learner.merge(trained, frozen)
        params = cast_floats(params, self._model.all_parameter_specs(), self._compute_dtype)
        output, collection = functional(
            self._model, params=params, args=(batch,), prng_key=key, is_training=True
        )
        auxiliary = total_loss(collection)
        sums = {
            "loss": output.total,
            "weight": output.weight,
            "auxiliary_loss": jnp.asarray(auxiliary * output.weight, jnp.float32),
        }
        if as_mean:
            return output.total / jnp.maximum(output.weight, 1.0) + auxiliary, (sums, collection)
        return output.total + sums["auxiliary_loss"], (sums, collection)

    def _accumulated(self, trained: Tree, frozen: Tree, batch: Tree, key: jax.Array) -> Any:
        """Gradients of the mean over all targets of the step, however they are spread."""
        num = self._accumulation_steps
        micro = jax.tree.map(lambda x: split_microbatches(x, num), batch)
        keys = jax.random.split(key, num)

        def body(total: Tree, xs: Any) -> tuple[Tree, Any]:
            grads, aux = jax.grad(self._objective, has_aux=True)(trained, frozen, *xs, False)
            return jax.tree.map(lambda t, g: t + g.astype(jnp.float32), total, grads), aux

        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), trained)
        grads, (sums, collections) = jax.lax.scan(body, zeros, (micro, keys))
        sums = jax.tree.map(lambda x: x.sum(0), sums)
        scale = 1.0 / jnp.maximum(sums["weight"], 1.0)
        grads = jax.tree.map(lambda g, p: (g * scale).astype(p.dtype), grads, trained)
        return grads, (sums, _merge_microbatches(collections))


class EvaluationStep:
    """Computes summed losses of a batch, without gradients."""

    __name__ = "evaluation_step"

    def __init__(self, model: BaseLayer, *, compute_dtype: str = "float32"):
        self._model = model
        self._compute_dtype = compute_dtype

    def __call__(self, params: Tree, batch: Tree) -> Tree:
        """Returns {"total", "weight"}: the summed loss and the number of targets, float32."""
        output, _ = functional(
            self._model,
            params=cast_floats(params, self._model.all_parameter_specs(), self._compute_dtype),
            args=(batch,),
            is_training=False,
        )
        return {"total": output.total, "weight": output.weight}


def cast_floats(params: Tree, specs: Tree, dtype: str) -> Tree:
    """Returns the parameters with floating arrays cast to `dtype`.

    Those that modules update themselves (`trainable=False` in their specs) stay: a shorter type would lose small steps.
    """

    def cast(spec: ParameterSpec, x: jax.Array) -> jax.Array:
        is_cast = spec.trainable and jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(dtype) if is_cast else x

    return jax.tree.map(cast, specs, params, is_leaf=is_spec)


def split_microbatches(x: jax.Array, num: int) -> jax.Array:
    """Returns `[num, B / num, ...]`; each takes every num-th row, so that the rows which a device
    holds stay on it."""
    return x.reshape(x.shape[0] // num, num, *x.shape[1:]).swapaxes(0, 1)


def _merge_microbatches(collections: OutputCollection) -> OutputCollection:
    return OutputCollection(
        summaries=averaged_summaries(collections.summaries),
        state_updates=averaged_updates(collections.state_updates),
    )


def _mean_metrics(sums: Tree) -> Tree:
    weight = jnp.maximum(sums["weight"], 1.0)
    metrics = {"loss": sums["loss"] / weight, "targets": sums["weight"]}
    return metrics | {"auxiliary_loss": sums["auxiliary_loss"] / weight}


def _flat_summaries(summaries: Tree) -> Tree:
    is_weighted = lambda v: isinstance(v, WeightedScalar)  # noqa: E731
    leaves = jax.tree_util.tree_leaves_with_path(summaries, is_leaf=is_weighted)
    return {
        "/".join(str(k.key) for k in path): v.mean if is_weighted(v) else v for path, v in leaves
    }


def _keep_if(condition: jax.Array, new: Tree, old: Tree) -> Tree:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _count_skip(health: Tree, finite: jax.Array) -> Tree:
    bad = 1 - finite.astype(jnp.int32)
    return {
        "skipped": health["skipped"] + bad,
        "consecutive": (health["consecutive"] + bad) * bad,
    }
