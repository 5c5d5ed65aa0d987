"""Operations on rows: parity with float64 NumPy, derivatives, and rows that do not depend on one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from tests.tolerances import assert_close
from trellax.kernels import UnsupportedError
from trellax.kernels.rowwise import explain, native, rms_norm, silu_product

needs_compiler = pytest.mark.skipif(
    native.LIBRARY.refusal() is not None, reason="no compiled library"
)
IMPLEMENTATIONS = ["xla", pytest.param("native", marks=needs_compiler)]
SHAPES = [(3, 576), (2, 5, 33), (16,), (70, 7)]


@pytest.fixture(autouse=True)
def one_device() -> Iterator[None]:
    """Outside of `shard_map`, native kernels see the arrays of one device."""
    with jax.set_mesh(Mesh(jax.devices()[:1], ("model",))):
        yield


def numbers(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> jax.Array:
    values = np.random.default_rng(seed).normal(size=shape) * 3
    return jnp.asarray(values, jnp.float32).astype(dtype)


def normalized(x: Any, scale: Any, eps: float) -> np.ndarray:
    x, scale = (np.asarray(v, np.float64) for v in (x, scale))
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * scale


def gated(gate: Any, up: Any) -> np.ndarray:
    gate, up = (np.asarray(v, np.float64) for v in (gate, up))
    return gate / (1 + np.exp(-gate)) * up


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_match_float64(shape: tuple[int, ...], dtype: str, implementation: str) -> None:
    x, other = numbers(shape, dtype), numbers(shape, dtype, seed=1)
    for scale_dtype in ("float32", "bfloat16"):
        scale = numbers(shape[-1:], scale_dtype, seed=2)
        out = rms_norm(x, scale, eps=1e-5, implementation=implementation)
        assert out.dtype == dtype
        assert_close(out, normalized(x, scale, 1e-5), dtype=dtype)
    out = silu_product(x, other, implementation=implementation)
    assert out.dtype == dtype
    assert_close(out, gated(x, other), dtype=dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_large_numbers_and_those_that_are_none(implementation: str) -> None:
    gate = jnp.asarray([-1e30, -200.0, -88.5, 0.0, 88.5, 1e30, jnp.nan])
    out = silu_product(gate, jnp.ones_like(gate), implementation=implementation)
    np.testing.assert_allclose(out[:4], 0.0, atol=1e-25)
    np.testing.assert_allclose(out[4:6], gate[4:6], rtol=1e-6)
    assert np.isnan(out[6])
    assert np.isnan(rms_norm(gate, gate, eps=1e-5, implementation=implementation)).all()


@needs_compiler
@pytest.mark.parametrize("op", ["rms_norm", "silu_product"])
def test_derivatives_are_those_of_the_reference(op: str) -> None:
    other = numbers((24,) if op == "rms_norm" else (4, 24), seed=1)

    def loss(x: Any, other: Any, implementation: str) -> jax.Array:
        if op == "rms_norm":
            out = rms_norm(x, other, eps=1e-5, implementation=implementation)
        else:
            out = silu_product(x, other, implementation=implementation)
        return jnp.sum(jnp.sin(out))

    gradients = [
        jax.grad(loss, argnums=(0, 1))(numbers((4, 24)), other, name) for name in ("native", "xla")
    ]
    jax.tree.map(np.testing.assert_array_equal, *gradients)


@needs_compiler
def test_a_row_does_not_depend_on_the_others() -> None:
    x, other, scale = numbers((50, 576)), numbers((50, 576), seed=1), numbers((576,), seed=2)
    norms = rms_norm(x, scale, eps=1e-5, implementation="native")
    products = silu_product(x, other, implementation="native")
    for rows in (slice(0, 1), slice(7, 12), slice(49, 50)):
        alone = rms_norm(x[rows], scale, eps=1e-5, implementation="native")
        np.testing.assert_array_equal(alone, norms[rows])
        alone = silu_product(x[rows], other[rows], implementation="native")
        np.testing.assert_array_equal(alone, products[rows])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="rms_norm: of rows"):
        rms_norm(numbers((2, 8)), numbers((7,)), eps=1e-5)
    halves = numbers((2, 8)).astype("float16")
    assert explain("silu_product", halves, halves).name == "xla"
    with pytest.raises(UnsupportedError, match="float16"):
        silu_product(halves, halves, implementation="native")
