"""The mixture of experts equals a loop over tokens and experts, gradients included."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calls import assert_trees_equal, built, called, draws
from tests.tolerances import TOLERANCE
from trellax.config import ConfigError
from trellax.layers.feed_forward import FeedForwardLayer, activation_fn
from trellax.layers.moe import MoELayer, TopKRouter

D, F, E, C = 8, 12, 4, 2


def small_config(**fields: Any) -> Any:
    defaults = {"input_dim": D, "hidden_dim": F, "num_experts": E, "experts_per_token": C}
    return MoELayer.default_config().set(**{**defaults, **fields})


def every_expert_on_every_token(params: Any, x_BSD: Any, cfg: Any) -> Any:
    """Reference: all experts see all tokens; weights of experts that were not chosen are 0."""
    x_ND = x_BSD.reshape(-1, x_BSD.shape[-1])
    probs_NE = jax.nn.softmax(x_ND @ params["router"]["weight"])
    threshold_N1 = -jnp.sort(-probs_NE)[:, cfg.experts_per_token - 1 :][:, :1]
    weights_NE = jnp.where(probs_NE >= threshold_N1, probs_NE, 0.0)
    if cfg.router.normalize_weights:
        weights_NE /= weights_NE.sum(-1, keepdims=True)
    experts, act, total = params["experts"], activation_fn(cfg.activation), 0.0
    for e in range(cfg.num_experts):
        hidden = x_ND @ experts["up"][e]
        hidden = act(x_ND @ experts["gate"][e]) * hidden if cfg.gated else act(hidden)
        total += weights_NE[:, e : e + 1] * (hidden @ experts["down"][e])
    return total.reshape(x_BSD.shape)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("choices", [1, 2, 4])
def test_parity_with_all_experts_on_all_tokens(choices: int, gated: bool, normalize: bool):
    cfg = small_config(experts_per_token=choices, gated=gated)
    cfg.router.set(normalize_weights=normalize)
    layer, params = built(cfg)
    x_BSD, direction = draws(1, 2, 5, D), draws(2, 2, 5, D)
    ours = lambda p, x: jnp.vdot(called(layer, p, x)[0], direction)
    theirs = lambda p, x: jnp.vdot(every_expert_on_every_token(p, x, cfg), direction)
    got, expected = (
        jax.jit(jax.value_and_grad(fn, argnums=(0, 1)))(params, x_BSD) for fn in (ours, theirs)
    )
    assert_trees_equal(got, expected, **TOLERANCE["float32"])


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 99), batch=st.sampled_from([1, 3]), length=st.sampled_from([1, 6]))
def test_a_token_does_not_depend_on_its_neighbours(seed: int, batch: int, length: int):
    layer, params = built(small_config())
    x_BSD = draws(seed, batch, length, D)
    y_BSD, _ = called(layer, params, x_BSD)
    alone, _ = called(layer, params, x_BSD[-1:, -1:])
    np.testing.assert_allclose(y_BSD[-1:, -1:], alone, **TOLERANCE["float32"])


def test_tokens_may_all_choose_the_same_experts():
    layer, params = built(small_config())
    params["router"]["weight"] = jnp.zeros((D, E)).at[:, 1].set(9.0).at[:, 3].set(8.0)
    x_BSD = jnp.abs(draws(1, 2, 5, D))
    y_BSD, out = called(layer, params, x_BSD)
    expected = every_expert_on_every_token(params, x_BSD, layer.cfg)
    np.testing.assert_allclose(y_BSD, expected, **TOLERANCE["float32"])
    assert out.summaries["router"]["max_load_fraction"] == 0.5


def test_losses_and_summaries_equal_their_formulas():
    cfg = TopKRouter.default_config().set(
        input_dim=D, num_experts=E, experts_per_token=C, load_balance_weight=0.5, z_loss_weight=0.25
    )
    layer, params = built(cfg)
    x_ND = draws(1, 20, D)
    routing, out = called(layer, params, x_ND.reshape(4, 5, D))
    logits = np.asarray(x_ND, "float64") @ np.asarray(params["weight"], "float64")
    lse = np.log(np.exp(logits).sum(-1))
    probs = np.exp(logits - lse[:, None])
    load = np.bincount(np.argsort(-probs, -1)[:, :C].ravel(), minlength=E) / (20 * C)
    np.testing.assert_array_equal(routing.loads_E, load * 20 * C)
    np.testing.assert_allclose(routing.weights_BSC.sum(-1), 1.0, rtol=1e-6)
    expected_losses = {
        "load_balance": 0.5 * E * (load * probs.mean(0)).sum(),
        "z_loss": 0.25 * (lse**2).mean(),
    }
    entropy = -(probs * np.log(probs)).sum(-1).mean()
    assert set(out.losses) == set(expected_losses)
    for name, expected in expected_losses.items():
        np.testing.assert_allclose(out.losses[name], expected, rtol=1e-5)
    np.testing.assert_allclose(out.summaries["entropy"], entropy, rtol=1e-5)
    np.testing.assert_allclose(out.summaries["max_load_fraction"], load.max(), rtol=1e-6)
    np.testing.assert_allclose(out.summaries["min_load_fraction"], load.min(), rtol=1e-6)


def test_an_even_load_costs_exactly_the_weight():
    cfg = TopKRouter.default_config().set(input_dim=E, num_experts=E, experts_per_token=1)
    layer, params = built(cfg)
    params["weight"] = jnp.eye(E)
    _, out = called(layer, params, jnp.eye(E)[None])
    np.testing.assert_allclose(out.losses["load_balance"], 0.01, rtol=1e-6)


def test_a_shared_expert_is_added():
    shared = FeedForwardLayer.default_config().set(hidden_dim=F)
    layer, params = built(small_config(shared_expert=shared))
    plain, _ = built(small_config())
    x_BSD = draws(1, 2, 5, D)
    feed_forward = FeedForwardLayer.default_config().set(input_dim=D, hidden_dim=F)
    alone, _ = called(feed_forward.instantiate(name="ffn"), params["shared_expert"], x_BSD)
    both, _ = called(layer, params, x_BSD)
    routed, _ = called(plain, {k: params[k] for k in ("router", "experts")}, x_BSD)
    np.testing.assert_allclose(both, routed + alone, **TOLERANCE["float32"])


def test_bfloat16_stays_bfloat16_and_near():
    layer, params = built(small_config())
    x_BSD = draws(1, 2, 5, D).astype("bfloat16")
    y_BSD, out = called(layer, params, x_BSD)
    assert y_BSD.dtype == jnp.bfloat16 and out.losses["router"]["z_loss"].dtype == jnp.float32
    expected = every_expert_on_every_token(params, x_BSD.astype("float32"), layer.cfg)
    np.testing.assert_allclose(np.asarray(y_BSD, "float32"), expected, **TOLERANCE["bfloat16"])


def test_flops_count_the_experts_that_a_token_uses():
    layer = small_config().instantiate(name="moe")
    assert layer.forward_flops_per_token(9) == 2 * D * E + C * 2 * 3 * D * F


def test_experts_have_an_axis_of_their_own():
    specs = small_config().instantiate(name="moe").all_parameter_specs()
    assert specs["experts"]["up"].logical_axes == ("experts", "embed", "mlp")
    assert specs["experts"]["down"].shape == (E, F, D)
    assert specs["experts"]["down"].fan_in == (1,)


@pytest.mark.parametrize("choices", [0, E + 1])
def test_impossible_numbers_of_choices_are_refused(choices: int):
    with pytest.raises(ConfigError, match=f"experts_per_token={choices} of {E} experts"):
        built(small_config(experts_per_token=choices))
