"""Feed-forward equals its formula with any activation, and its width may follow from the model's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.calls import built, called, draws
from tests.tolerances import TOLERANCE
from trellax.config import ConfigError, MissingRequiredError, config_for_function
from trellax.layers.feed_forward import FeedForwardLayer, activation_fn, scaled_hidden_dim

D, F = 8, 12


def small_config(**fields: Any) -> Any:
    return FeedForwardLayer.default_config().set(input_dim=D, hidden_dim=F).set(**fields)


def sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-x))


REFERENCES = {
    "silu": lambda x: x * sigmoid(x),
    "relu": lambda x: np.maximum(x, 0.0),
    "squared_relu": lambda x: np.maximum(x, 0.0) ** 2,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "tanh": np.tanh,
    "identity": lambda x: x,
}


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", list(REFERENCES))
def test_parity_with_the_formula(activation: str, gated: bool):
    layer, params = built(small_config(activation=activation, gated=gated))
    x_BSD = draws(1, 2, 3, D)
    y_BSD, _ = called(layer, params, x_BSD)
    weights = {name: np.asarray(p["weight"], "float64") for name, p in params.items()}
    up, act = np.asarray(x_BSD, "float64") @ weights["up"], REFERENCES[activation]
    hidden = act(np.asarray(x_BSD, "float64") @ weights["gate"]) * up if gated else act(up)
    np.testing.assert_allclose(y_BSD, hidden @ weights["down"], **TOLERANCE["float32"])
    assert ("gate" in params) == gated


def test_children_get_their_sizes_and_axes():
    specs = small_config().instantiate(name="ffn").all_parameter_specs()
    assert specs["up"]["weight"].logical_axes == ("embed", "mlp")
    assert specs["gate"]["weight"].shape == (D, F)
    assert specs["down"]["weight"].logical_axes == ("mlp", "embed")


def test_dropout_is_of_the_hidden_layer():
    cfg = small_config(activation="identity", gated=False)
    cfg.dropout.set(rate=0.5)
    layer, params = built(cfg)
    params["down"]["weight"] = jnp.ones((F, D))
    params["up"]["weight"] = jnp.ones((D, F)) / D
    y, _ = called(layer, params, jnp.ones((4, 4, D)), training=True)
    assert (y[..., :1] == y).all() and len(np.unique(y)) > 2
    np.testing.assert_allclose(y % 2.0, 0.0, atol=1e-4)  # Each survivor counts 2.


def test_flops_count_each_matrix():
    flops = lambda **fields: small_config(**fields).instantiate(name="f").forward_flops_per_token(9)
    assert flops() == 2 * 3 * D * F
    assert flops(gated=False) == 2 * 2 * D * F


def test_the_width_may_be_a_function_of_the_models():
    width = config_for_function(scaled_hidden_dim).set(scale=8 / 3, multiple_of=256)
    cfg = FeedForwardLayer.default_config().set(input_dim=4096, hidden_dim=width)
    specs = cfg.instantiate(name="ffn").all_parameter_specs()
    assert specs["up"]["weight"].shape == (4096, 11_008)  # Llama 2 7B.
    assert cfg.hidden_dim == width  # Derivation works on a copy.


def test_a_missing_model_dim_is_reported_as_such():
    width = config_for_function(scaled_hidden_dim)
    cfg = FeedForwardLayer.default_config().set(hidden_dim=width)
    with pytest.raises(MissingRequiredError, match="input_dim"):
        cfg.instantiate(name="ffn")


@given(
    dim=st.integers(1, 10_000), scale=st.floats(0.5, 8.0), multiple_of=st.sampled_from([1, 16, 256])
)
def test_scaled_widths_are_the_next_multiple(dim: int, scale: float, multiple_of: int):
    width = scaled_hidden_dim(dim, scale, multiple_of)
    assert width % multiple_of == 0 and 0 <= width - int(scale * dim) < multiple_of


@pytest.mark.parametrize(
    "name", ["relu", "gelu", "silu", "swish", "mish", "leaky_relu", "softplus"]
)
def test_activations_of_jax_are_known_by_name(name: str):
    x = draws(1, 5)
    np.testing.assert_array_equal(activation_fn(name)(x), getattr(jax.nn, name)(x))


@pytest.mark.parametrize("name", ["softmax", "glu", "one_hot", "initializers", "_private"])
def test_what_is_not_element_wise_is_no_activation(name: str):
    with pytest.raises(ValueError, match=f"No activation '{name}'"):
        activation_fn(name)


def test_mistakes_name_the_field():
    with pytest.raises(ConfigError, match="No activation 'sillu'.*Did you mean 'silu'"):
        built(small_config(activation="sillu"))
    with pytest.raises(ConfigError, match="gated=True needs a gate"):
        built(small_config(gate=None))
