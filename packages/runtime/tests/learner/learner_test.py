"""The learner against optax's own optimizers, and its rules by path."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trellax.config import NoMatchError, finalize
from trellax.layers import ConstantInitializer, ParameterSpec
from trellax.runtime import (
    Adafactor,
    AdamW,
    ConstantSchedule,
    Learner,
    Lion,
    Muon,
    ParameterRule,
    Sgd,
)

Tree = dict[str, Any]


def spec(*shape: int, fan_in: Any = (), fan_out: Any = (), axes: Any = None) -> ParameterSpec:
    initializer = ConstantInitializer.default_config().instantiate()
    axes = axes or (None,) * len(shape)
    return ParameterSpec(shape, "float32", initializer, axes, fan_in=fan_in, fan_out=fan_out)


SPECS: Tree = {
    "layer": {"weight": spec(2, 4, 6, fan_in=(1,), fan_out=(2,), axes=("layers", "embed", "mlp"))},
    "norm": {"scale": spec(4, axes=("norm",))},
}


def values(seed: int) -> Tree:
    keys = iter(jax.random.split(jax.random.key(seed), 2))
    return jax.tree.map(
        lambda s: jax.random.normal(next(keys), s.shape),
        SPECS,
        is_leaf=lambda s: hasattr(s, "fan_in"),
    )


def learner(optimizer: Any, *, peak: float = 0.1, **fields: Any) -> Learner:
    schedule = ConstantSchedule.default_config().set(peak=peak)
    cfg = Learner.default_config().set(
        optimizer=optimizer, schedule=schedule, total_steps=100, max_grad_norm=None
    )
    return finalize(cfg.set(**fields)).instantiate(parameter_specs=SPECS)


def run(subject: Learner, params: Tree, num_steps: int = 3) -> Tree:
    state = subject.init(params)
    for step in range(num_steps):
        grads, _ = subject.split(values(step + 1))
        params, state, _ = subject.update(grads, state, params)
    return params


def run_optax(transformation: optax.GradientTransformation, params: Tree) -> Tree:
    state = transformation.init(params)
    for step in range(3):
        updates, state = transformation.update(values(step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(actual: Tree, expected: Tree, rtol: float = 1e-5) -> None:
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=1e-6), actual, expected
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (AdamW.default_config().set(beta2=0.95), optax.adamw(0.1, b2=0.95, weight_decay=0.1)),
        (Lion.default_config().set(weight_decay=0.2), optax.lion(0.1, weight_decay=0.2)),
        (Sgd.default_config().set(momentum=0.9), optax.sgd(0.1, momentum=0.9)),
        (
            Adafactor.default_config().set(min_dim_size_to_factor=2),
            optax.adafactor(
                0.1, min_dim_size_to_factor=2, multiply_by_parameter_scale=False, eps=1e-30
            ),
        ),
    ],
)
def test_optimizers_take_the_steps_that_optax_takes(ours: Any, theirs: Any) -> None:
    assert_close(run(learner(ours), values(0)), run_optax(theirs, values(0)))


def test_muon_treats_stacked_matrices_one_by_one_and_vectors_with_adam() -> None:
    matrix = {"weight": optax.contrib.MuonDimensionNumbers(0, 1)}
    theirs = optax.contrib.muon(
        0.1,
        muon_weight_dimension_numbers=matrix,
        weight_decay=0.1,
        consistent_rms=0.2,
    )
    adam = optax.adamw(0.1, 0.9, 0.95, weight_decay=0.1)
    expected = values(0)
    for layer in range(2):
        params = {"weight": values(0)["layer"]["weight"][layer]}
        state = theirs.init(params)
        for step in range(3):
            grads = {"weight": values(step + 1)["layer"]["weight"][layer]}
            updates, state = theirs.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        weight = expected["layer"]["weight"].at[layer].set(params["weight"])
        expected["layer"]["weight"] = weight
    expected["norm"] = run_optax(adam, values(0))["norm"]
    assert_close(run(learner(Muon.default_config()), values(0)), expected, rtol=1e-3)


def test_frozen_parameters_keep_their_bits_and_have_no_state() -> None:
    rule = ParameterRule.default_config().set(parameters="norm.**", frozen=True)
    subject = learner(AdamW.default_config(), rules=(rule,))
    after = run(subject, values(0))
    np.testing.assert_array_equal(after["norm"]["scale"], values(0)["norm"]["scale"])
    assert not np.array_equal(after["layer"]["weight"], values(0)["layer"]["weight"])
    shapes = [x.shape for x in jax.tree.leaves(subject.init(values(0)))]
    assert (4,) not in shapes


def test_rules_scale_rate_and_decay_and_the_first_match_applies() -> None:
    rules = (
        ParameterRule.default_config().set(parameters="norm.*", weight_decay_multiplier=0.0),
        ParameterRule.default_config().set(parameters="**", learning_rate_multiplier=0.5),
    )
    after = run(learner(AdamW.default_config(), rules=rules), values(0))
    assert_close(after["norm"], run_optax(optax.adam(0.1), values(0))["norm"])
    halved = run_optax(optax.adamw(0.05, weight_decay=0.1), values(0))
    assert_close(after["layer"], halved["layer"])


def test_a_rule_that_matches_nothing_is_an_error_that_names_it() -> None:
    rule = ParameterRule.default_config().set(parameters="nrom.**")
    with pytest.raises(NoMatchError, match="'nrom.\\*\\*'"):
        learner(AdamW.default_config(), rules=(rule,))


def test_clipping_scales_to_the_limit_and_reports_the_norm_before() -> None:
    subject = learner(Sgd.default_config(), peak=1.0, max_grad_norm=1.0)
    grads = values(1)
    norm = float(optax.tree.norm(grads))
    assert norm > 1
    params = values(0)
    after, _, summaries = subject.update(grads, subject.init(params), params)
    change = jax.tree.map(jnp.subtract, params, after)
    np.testing.assert_allclose(optax.tree.norm(change), 1.0, rtol=1e-5)
    np.testing.assert_allclose(summaries["grad_norm"], norm, rtol=1e-6)


def test_the_average_follows_its_formula_and_is_what_is_evaluated() -> None:
    subject = learner(Sgd.default_config(), ema_decay=0.9)
    params, grads = values(0), values(1)
    after, state, _ = subject.update(grads, subject.init(params), params)
    expected = jax.tree.map(lambda p, a: 0.9 * p + 0.1 * a, params, after)
    assert_close(subject.evaluation_params(state, after), expected)


def test_state_has_the_axes_of_the_parameters_it_belongs_to() -> None:
    adam = learner(AdamW.default_config()).state_specs()
    moments = [s for s in jax.tree.leaves(adam) if s.shape == (2, 4, 6)]
    assert len(moments) == 2
    assert all(s.logical_axes == ("layers", "embed", "mlp") for s in moments)
    factored = learner(Adafactor.default_config().set(min_dim_size_to_factor=2)).state_specs()
    axes = {s.shape: s.logical_axes for s in jax.tree.leaves(factored)}
    assert axes[(2, 4)] == ("layers", "embed")
    assert axes[(2, 6)] == ("layers", "mlp")
