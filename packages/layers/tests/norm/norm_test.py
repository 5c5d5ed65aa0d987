"""Norms equal their formulas in float64, and are computed in float32 whatever the input is."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.calls import built, called, draws
from tests.tolerances import TOLERANCE
from trellax.layers.norm import LayerNorm, RMSNorm


def reference_rms_norm(x: Any, params: Any, eps: float) -> Any:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * params["scale"]


def reference_layer_norm(x: Any, params: Any, eps: float) -> Any:
    centered = x - x.mean(-1, keepdims=True)
    normed = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps)
    return normed * params["scale"] + params.get("bias", 0.0)


CASES = [
    (RMSNorm.default_config(), reference_rms_norm),
    (LayerNorm.default_config(), reference_layer_norm),
    (LayerNorm.default_config().set(bias=False), reference_layer_norm),
]
IDS = ["rms", "layer", "layer_without_bias"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("eps", [1e-6, 1e-1])
@pytest.mark.parametrize(("cfg", "reference"), CASES, ids=IDS)
def test_parity_with_the_formula(cfg: Any, reference: Any, eps: float, dtype: str):
    layer, params = built(cfg.clone(input_dim=16, eps=eps))
    params = {name: draws(i, 16) for i, name in enumerate(params)}
    x = (3.0 * draws(5, 2, 3, 16) + 1.0).astype(dtype)
    y, _ = called(layer, params, x)
    assert y.dtype == dtype
    params64 = {name: np.asarray(p, "float64") for name, p in params.items()}
    expected = reference(np.asarray(x, "float64"), params64, eps)
    np.testing.assert_allclose(np.asarray(y, "float64"), expected, **TOLERANCE[dtype])


@pytest.mark.parametrize(("cfg", "reference"), CASES, ids=IDS)
def test_squares_that_low_precision_cannot_hold(cfg: Any, reference: Any):
    layer, params = built(cfg.clone(input_dim=4))
    x = jnp.array([[1e-4, 3e-4, -2e-4, 0.0]], "float16")  # Squares underflow in float16.
    y, _ = called(layer, params, x)
    expected = reference(np.asarray(x, "float64"), {"scale": 1.0}, 1e-5)
    np.testing.assert_allclose(np.asarray(y, "float64"), expected, rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize(("cfg", "reference"), CASES, ids=IDS)
def test_parameters_are_on_the_norm_axis(cfg: Any, reference: Any):
    specs = cfg.clone(input_dim=4).instantiate(name="norm").parameter_specs()
    assert all(spec.logical_axes == ("norm",) and spec.shape == (4,) for spec in specs.values())
