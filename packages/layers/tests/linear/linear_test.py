"""Linear maps equal einsum, and say what their weights are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calls import built, called, draws
from tests.tolerances import TOLERANCE
from trellax.config import ConfigError
from trellax.layers.linear import Linear, Projection

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=2).map(tuple)


@settings(max_examples=25, deadline=None)
@given(batch=SIZES, inputs=SIZES, outputs=SIZES, bias=st.booleans())
def test_projection_contracts_all_input_dims(batch, inputs, outputs, bias):
    cfg = Projection.default_config().set(input_dims=inputs, output_dims=outputs, bias=bias)
    layer, params = built(cfg)
    if bias:
        params["bias"] = draws(3, *outputs)
    x = draws(2, *batch, *inputs)
    y, _ = called(layer, params, x)
    flat = np.asarray(x, "float64").reshape(-1, np.prod(inputs)) @ np.asarray(
        params["weight"], "float64"
    ).reshape(np.prod(inputs), -1)
    expected = flat.reshape(*batch, *outputs) + np.asarray(params.get("bias", 0.0))
    assert params["weight"].shape == (*inputs, *outputs)
    np.testing.assert_allclose(y, expected, **TOLERANCE["float32"])


@pytest.mark.parametrize("bias", [False, True])
def test_linear_is_the_projection_of_one_dim(bias: bool):
    linear, params = built(Linear.default_config().set(input_dim=5, output_dim=3, bias=bias))
    cfg = Projection.default_config().set(input_dims=(5,), output_dims=(3,), bias=bias)
    projection, same = built(cfg)
    x = draws(1, 2, 7, 5)
    np.testing.assert_array_equal(called(linear, params, x)[0], called(projection, same, x)[0])
    assert linear.forward_flops_per_token(9) == projection.forward_flops_per_token(9) == 30


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_result_has_the_inputs_type(dtype: str):
    layer, params = built(Linear.default_config().set(input_dim=64, output_dim=3, bias=True))
    x = draws(1, 2, 64)
    y, _ = called(layer, params, x.astype(dtype))
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, "float32"), x @ params["weight"], **TOLERANCE[dtype])


def test_logical_axes_go_to_weight_and_bias():
    cfg = Projection.default_config().set(
        input_dims=(8,), output_dims=(2, 4), axes=("embed", "heads", "head_dim"), bias=True
    )
    specs = cfg.instantiate(name="q").parameter_specs()
    assert specs["weight"].logical_axes == ("embed", "heads", "head_dim")
    assert specs["bias"].logical_axes == ("heads", "head_dim")
    linear = Linear.default_config().set(input_dim=1, output_dim=1, axes=("embed", "mlp"))
    assert linear.instantiate(name="up").parameter_specs()["weight"].logical_axes == (
        "embed",
        "mlp",
    )


def test_first_values_keep_the_variance_of_activations():
    cfg = Projection.default_config().set(input_dims=(8, 32), output_dims=(512,))
    layer, params = built(cfg)
    y, _ = called(layer, params, jnp.ones((1, 8, 32)))
    np.testing.assert_allclose(jnp.var(y), 1.0, rtol=0.2)


def test_axes_that_do_not_fit_are_refused():
    cfg = Projection.default_config().set(input_dims=(8,), output_dims=(2, 4), axes=("embed",))
    with pytest.raises(ConfigError, match="names 1 axes, but the weight has 3 dims"):
        cfg.instantiate(name="q")


def test_gradients_flow_to_input_and_weight():
    layer, params = built(Linear.default_config().set(input_dim=5, output_dim=3))
    x = draws(1, 4, 5)
    fn = lambda p, x: called(layer, p, x)[0].sum()
    d_params, d_x = jax.grad(fn, argnums=(0, 1))(params, x)
    np.testing.assert_allclose(d_x, np.tile(params["weight"].sum(1), (4, 1)), rtol=1e-5)
    np.testing.assert_allclose(d_params["weight"], np.tile(x.sum(0)[:, None], 3), rtol=1e-5)
