"""Routers: scores, groups, and biases that even out loads, against formulas written out in numpy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.calls import assert_trees_equal, built, called, draws
from tests.tolerances import TOLERANCE
from trellax.config import ConfigError
from trellax.layers.module import with_updates
from trellax.layers.moe import LoadBalancingBias, MoELayer, SigmoidRouter, TopKRouter
from trellax.layers.stack import ScannedStack

B, S, D, E, C = 2, 6, 8, 8, 3
SIZES = {"input_dim": D, "num_experts": E, "experts_per_token": C}


def logits_of(params: Any, x_BSD: Any) -> np.ndarray:
    return np.asarray(x_BSD, "float64") @ np.asarray(params["weight"], "float64")


@pytest.mark.parametrize("normalize", [True, False])
def test_sigmoid_router_equals_the_equations_of_deepseek_v3(normalize: bool):
    """Equations 12 to 16: biased scores choose, plain ones weigh."""
    cfg = SigmoidRouter.default_config().set(
        normalize_weights=normalize,
        scaling_factor=2.5,
        selection_bias=LoadBalancingBias.default_config(),
        **SIZES,
    )
    layer, params = built(cfg)
    bias_E = np.linspace(-0.3, 0.3, E).astype(np.float32)
    params["selection_bias"]["bias"] = jnp.asarray(bias_E)
    x_BSD = draws(1, B, S, D)
    routing, _ = called(layer, params, x_BSD)
    scores = 1 / (1 + np.exp(-logits_of(params, x_BSD)))
    experts = np.argsort(-(scores + bias_E), axis=-1)[..., :C]
    weights = np.take_along_axis(scores, experts, axis=-1)
    weights = weights / weights.sum(-1, keepdims=True) if normalize else weights
    np.testing.assert_array_equal(routing.experts_BSC, experts)
    np.testing.assert_allclose(routing.weights_BSC, 2.5 * weights, **TOLERANCE["float32"])


def test_softmax_router_normalizes_over_all_experts_then_over_the_chosen():
    """Qwen3-30B-A3B: `norm_topk_prob`."""
    layer, params = built(TopKRouter.default_config().set(**SIZES))
    x_BSD = draws(1, B, S, D)
    routing, _ = called(layer, params, x_BSD)
    probs = np.exp(logits_of(params, x_BSD))
    chosen = -np.sort(-probs, axis=-1)[..., :C]
    np.testing.assert_allclose(
        routing.weights_BSC, chosen / chosen.sum(-1, keepdims=True), **TOLERANCE["float32"]
    )


def test_groups_limit_the_choice_to_those_with_the_best_two_experts():
    cfg = SigmoidRouter.default_config().set(num_groups=4, groups_per_token=2, **SIZES)
    layer, params = built(cfg)
    x_BSD = draws(1, B, S, D)
    routing, _ = called(layer, params, x_BSD)
    scores = 1 / (1 + np.exp(-logits_of(params, x_BSD)))
    for index in np.ndindex(B, S):
        groups = scores[index].reshape(4, 2)
        best = np.argsort(-groups.sum(1))[:2]
        allowed = [e for e in range(E) if e // 2 in best]
        expected = sorted(allowed, key=lambda e: -scores[index][e])[:C]
        np.testing.assert_array_equal(routing.experts_BSC[index], expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_groups": 4}, "set both, or neither"),
        ({"num_groups": 3, "groups_per_token": 1}, "8 experts do not divide into num_groups=3"),
        ({"num_groups": 4, "groups_per_token": 5}, "groups_per_token=5 of 4 groups"),
        ({"num_groups": 4, "groups_per_token": 1}, "hold 2 experts, fewer than"),
    ],
)
def test_groups_that_cannot_be_are_refused(fields: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        built(TopKRouter.default_config().set(**SIZES, **fields))


def test_the_bias_moves_against_the_load_by_its_rate_and_only_in_training():
    cfg = TopKRouter.default_config().set(
        selection_bias=LoadBalancingBias.default_config().set(rate=0.25), **SIZES
    )
    layer, params = built(cfg)
    x_BSD = draws(1, B, S, D)
    routing, out = called(layer, params, x_BSD, training=True)
    expected = 0.25 * np.sign(B * S * C / E - np.asarray(routing.loads_E))
    assert_trees_equal(out.state_updates, {"selection_bias": {"bias": expected}})
    assert called(layer, params, x_BSD)[1].state_updates == {}
    spec = layer.all_parameter_specs()["selection_bias"]["bias"]
    assert (spec.trainable, spec.dtype, spec.shape) == (False, "float32", (E,))


@pytest.mark.parametrize("router", [TopKRouter, SigmoidRouter])
def test_the_bias_evens_out_skewed_loads(router: Any):
    """All tokens like the same experts; after some steps of the bias alone, loads are even."""
    cfg = router.default_config().set(
        selection_bias=LoadBalancingBias.default_config().set(rate=1e-3), **SIZES
    )
    layer, params = built(cfg)
    x_BSD = draws(1, 4, 32, D).at[..., 0].set(1.0)
    params["weight"] = params["weight"].at[0].add(jnp.linspace(-1.5, 1.5, E))

    def step(params: Any, _: Any) -> Any:
        _, out = called(layer, params, x_BSD, training=True)
        loads = [out.summaries[f"{which}_load_fraction"] for which in ("max", "min")]
        return with_updates(params, out.state_updates), loads

    _, (busiest, idlest) = jax.jit(lambda p: jax.lax.scan(step, p, length=600))(params)
    assert busiest[0] > 2 / E and idlest[0] < 0.25 / E
    assert busiest[-50:].max() < 1.3 / E and idlest[-50:].min() > 0.7 / E


def test_biases_of_a_stack_are_updated_layer_by_layer():
    layer = MoELayer.default_config().set(hidden_dim=4, num_experts=E, experts_per_token=C)
    layer.router.selection_bias = LoadBalancingBias.default_config()
    stack, params = built(ScannedStack.default_config().set(layer=layer, num_layers=3, input_dim=D))
    _, out = called(stack, params, draws(1, B, S, D), training=True)
    bias_LE = out.state_updates["layer"]["router"]["selection_bias"]["bias"]
    assert bias_LE.shape == (3, E)
    updated = with_updates(params, out.state_updates)
    assert jax.tree.structure(updated) == jax.tree.structure(params)
    assert (np.abs(bias_LE).sum(1) > 0).all()


def test_a_rate_that_moves_nothing_is_refused():
    bias = LoadBalancingBias.default_config().set(rate=0.0)
    with pytest.raises(ConfigError, match="use a positive one"):
        built(TopKRouter.default_config().set(selection_bias=bias, **SIZES))
