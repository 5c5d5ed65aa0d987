"""One train step against hand-written JAX, and what it guards against."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.tiny import tiny_input, tiny_model
from trellax.config import finalize, replace_config
from trellax.layers import FeedForwardLayer, LoadBalancingBias, MoELayer, functional
from trellax.parallel import RematPolicy
from trellax.runtime import AdamW, ConstantSchedule, Learner
from trellax.runtime.trainer import TrainStep
from trellax.runtime.trainer.train_step import split_microbatches

Tree = dict[str, Any]

jax.config.update("jax_disable_most_optimizations", True)  # Programs run a step or three.


def make_step(model_cfg: Any = None, **options: Any) -> TrainStep:
    model = finalize(model_cfg or tiny_model()).instantiate()
    schedule = ConstantSchedule.default_config().set(peak=1e-2)
    cfg = Learner.default_config().set(
        optimizer=AdamW.default_config(), schedule=schedule, total_steps=10, max_grad_norm=1.0
    )
    learner = cfg.instantiate(parameter_specs=model.all_parameter_specs())
    return TrainStep(model, learner, seed=0, **options)


def make_batch(index: int = 0) -> Tree:
    return {k: jnp.asarray(v) for k, v in tiny_input().instantiate().batch(index).items()}


def uneven_batch() -> Tree:
    """Rows have at most 1, 4, 9 and 15 targets."""
    batch = make_batch()
    keep = jnp.arange(16)[None] < jnp.asarray([1, 4, 9, 15])[:, None]
    return batch | {"target_ids": jnp.where(keep, batch["target_ids"], -1)}


def assert_close(actual: Any, expected: Any, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=atol), actual, expected
    )


def test_steps_equal_hand_written_gradients_and_optax() -> None:
    step = make_step()
    state = step.init()
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1))
    params, opt_state = state["params"], theirs.init(state["params"])
    model = finalize(tiny_model()).instantiate()

    def mean_loss(params: Tree, batch: Tree) -> jax.Array:
        output, _ = functional(model, params=params, args=(batch,), is_training=True)
        return output.total / output.weight

    for index in range(3):
        loss, grads = jax.value_and_grad(mean_loss)(params, make_batch(index))
        updates, opt_state = theirs.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        state, metrics = jax.jit(step)(state, make_batch(index))
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    assert_close(state["params"], params, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num", [2, 4])
def test_accumulation_over_unequal_token_counts_equals_one_batch(num: int) -> None:
    whole, split = make_step(), make_step(accumulation_steps=num)
    state = whole.init()
    key = jax.random.key(0)
    grads, metrics, _ = jax.jit(whole._gradients)(state["params"], uneven_batch(), key)
    micro_grads, micro_metrics, _ = jax.jit(split._gradients)(state["params"], uneven_batch(), key)
    assert_close(micro_grads, grads)
    assert_close(micro_metrics["loss"], metrics["loss"])
    assert float(micro_metrics["targets"]) == (uneven_batch()["target_ids"] >= 0).sum()


def test_microbatches_hold_every_row_once() -> None:
    rows = jnp.arange(12).reshape(6, 2)
    micro = split_microbatches(rows, 3)
    assert micro.shape == (3, 2, 2)
    assert sorted(np.ravel(micro)) == list(range(12))


def test_a_non_finite_step_changes_nothing_but_the_counters() -> None:
    step = make_step()
    state = step.init()
    weight = state["params"]["decoder"]["embedding"]["weight"]
    poisoned = jax.tree.map(lambda x: x, state)
    poisoned["params"]["decoder"]["embedding"]["weight"] = weight.at[3].set(jnp.inf)
    after, metrics = jax.jit(step)(poisoned, make_batch() | {"input_ids": jnp.full((4, 16), 3)})
    assert_close(after["params"], poisoned["params"], rtol=0, atol=0)
    assert_close(after["learner"], poisoned["learner"], rtol=0, atol=0)
    assert int(after["step"]) == 1
    assert metrics["skipped_steps"] == metrics["consecutive_skips"] == 1


def test_a_finite_step_ends_a_row_of_skips_but_not_the_count() -> None:
    step = make_step()
    state = step.init()
    state["health"] = {
        "skipped": jnp.asarray(5, jnp.int32),
        "consecutive": jnp.asarray(2, jnp.int32),
    }
    _, metrics = jax.jit(step)(state, make_batch())
    assert metrics["skipped_steps"] == 5
    assert metrics["consecutive_skips"] == 0


def test_computing_in_bfloat16_keeps_float32_parameters_and_nearly_the_loss() -> None:
    state = make_step().init()
    _, exact = jax.jit(make_step())(state, make_batch())
    after, rough = jax.jit(make_step(compute_dtype="bfloat16"))(state, make_batch())
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(after["params"]))
    np.testing.assert_allclose(rough["loss"], exact["loss"], rtol=3e-2)


def test_the_state_is_a_function_of_the_seed_and_has_the_specs_it_says() -> None:
    step = make_step()
    first, second = step.init(), step.init()
    assert_close(first, second, rtol=0, atol=0)
    specs = step.state_specs()
    is_spec = lambda s: hasattr(s, "logical_axes")  # noqa: E731
    shapes = jax.tree.map(lambda s: (tuple(s.shape), str(s.dtype)), specs, is_leaf=is_spec)
    actual = jax.tree.map(lambda x: (x.shape, str(x.dtype)), first)
    assert shapes == actual


@pytest.mark.parametrize("num", [1, 2])
def test_what_modules_update_themselves_keeps_its_type_and_small_steps(num: int) -> None:
    """A router's bias moves by the mean over microbatches of steps of its rate, up or down, whatever the compute type,
    in scanned and rematerialized layers."""
    model_cfg = tiny_model()
    moe = MoELayer.default_config().set(num_experts=4, remat=RematPolicy.Config())
    moe.router.selection_bias = LoadBalancingBias.default_config().set(rate=1e-3)
    replace_config(model_cfg, FeedForwardLayer, moe)
    step = make_step(model_cfg, compute_dtype="bfloat16", accumulation_steps=num)
    state, jitted = step.init(), jax.jit(step)
    bias_of = lambda state: state["params"]["decoder"]["stack"]["layer"]["feed_forward"]["router"][
        "selection_bias"
    ]["bias"]
    start = jnp.full((2, 4), 1.0)  # Near one, bfloat16 cannot tell such steps from nothing.
    state["params"] = jax.tree.map(lambda x: start if x is bias_of(state) else x, state["params"])
    for index in range(3):
        before = bias_of(state)
        state, metrics = jitted(state, make_batch(index))
        moved = np.asarray(bias_of(state) - before)
        assert bias_of(state).dtype == jnp.float32
        steps = num * moved / 1e-3
        np.testing.assert_allclose(steps, steps.round(), atol=1e-3)
        assert np.abs(steps).max() <= num + 1e-3
        assert (moved != 0).any(), "Loads of a few tokens on four experts are uneven."
    assert np.isfinite(metrics["loss"])
