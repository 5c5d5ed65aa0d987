"""Prepared weights: what they hold, in every format and layout.

Axes: D inputs, F outputs.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.matmul.suite import weight_of
from trellax.kernels.matmul import prepare, take_rows, unprepare
from trellax.kernels.matmul.formats import FORMATS

LAYOUTS = ("plain", "panels")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(64, 48), (7, 5), (33, 100), (3, 8, 24)])
def test_numbers_survive(layout: Any, shape: tuple[int, ...]) -> None:
    weight = weight_of(shape)
    exact = prepare(weight, format="float32", layout=layout)
    np.testing.assert_array_equal(unprepare(exact), weight)
    rounded = prepare(weight, format="bfloat16", layout=layout)
    np.testing.assert_array_equal(unprepare(rounded), weight.astype(jnp.bfloat16))


@pytest.mark.parametrize("format", ["int8", "int4", "int8_dynamic"])
@pytest.mark.parametrize("group_size", [8, 32, 96, None])
def test_quantized_numbers_are_within_half_a_step(format: Any, group_size: int | None) -> None:
    weight = np.asarray(weight_of((96, 40)))
    prepared = prepare(weight, format=format, group_size=group_size)
    size = prepared.spec.group_size
    groups = weight.reshape(-1, size, 40)
    # int4 has no +8: what is nearly as far from zero as the farthest, on the other side, may be a whole step off.
    steps = 0.5 if format == "int8" else 1.0
    farthest = np.abs(groups).max(axis=1, keepdims=True)
    step = farthest / (127 if format == "int8" else 8)
    error = np.abs(np.asarray(unprepare(prepared)).reshape(groups.shape) - groups)
    assert (error <= steps * step * 1.0001).all()
    assert np.mean(error <= 0.5001 * step) > 0.95


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("axes", ["DF", "VD"])
def test_layouts_hold_the_same_numbers(format: Any, axes: Any) -> None:
    weight = weight_of((64, 48))
    plain, panels = (
        unprepare(prepare(weight, format=format, axes=axes, layout=x)) for x in LAYOUTS
    )
    assert plain.shape == weight.shape
    np.testing.assert_array_equal(plain, panels)


@pytest.mark.parametrize("format", ["int8", "int4", "int8_dynamic"])
@given(seed=st.integers(0, 1000), offset=st.sampled_from([0.0, 1.0, -3.0]))
@settings(deadline=None, max_examples=8)
def test_quantizing_again_changes_nothing(format: Any, seed: int, offset: float) -> None:
    once = unprepare(prepare(weight_of((64, 8), seed) + offset, format=format, group_size=32))
    twice = unprepare(prepare(once, format=format, group_size=32))
    np.testing.assert_allclose(twice, once, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("format", ["int8", "int4", "int8_dynamic"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_zeros_stay_zero(format: Any, layout: Any) -> None:
    prepared = prepare(jnp.zeros((64, 20)), format=format, layout=layout)
    assert not np.asarray(unprepare(prepared)).any()


def test_formats_take_the_bytes_that_they_should() -> None:
    weight = weight_of((256, 64))
    of = lambda format, **options: prepare(weight, format=format, **options).num_bytes
    assert of("float32") == 4 * 256 * 64
    assert of("bfloat16") == 2 * 256 * 64
    assert of("int8", group_size=128) == 256 * 64 + 4 * 2 * 64
    assert of("int4", group_size=32) == 256 * 64 // 2 + 4 * 8 * 64


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", FORMATS)
def test_rows_of_an_embedding_can_be_looked_up(format: Any, layout: Any) -> None:
    prepared = prepare(weight_of((50, 32)), format=format, axes="VD", layout=layout)
    ids = jnp.asarray([[3, 49, 0], [17, 3, 16]])
    rows = jax.jit(take_rows)(prepared, ids)
    np.testing.assert_array_equal(rows, np.asarray(unprepare(prepared))[np.asarray(ids)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", FORMATS)
def test_stacks_are_prepared_layer_by_layer(format: Any, layout: Any) -> None:
    stack = weight_of((3, 64, 24))
    prepared = prepare(stack, format=format, layout=layout)
    assert prepared.leading_shape == (3,)
    for i, layer in enumerate(stack):
        alone = prepare(layer, format=format, layout=layout)
        sliced = jax.tree.map(lambda x, i=i: x[i], prepared)
        assert jax.tree.structure(sliced) == jax.tree.structure(alone)
        for found, expected in zip(jax.tree.leaves(sliced), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(unprepare(prepared.at_layer(i)), unprepare(alone))


def test_preparing_may_be_traced() -> None:
    weight = weight_of((64, 24))
    traced = jax.jit(lambda w: prepare(w, format="int4"))(weight)
    np.testing.assert_allclose(
        unprepare(traced), unprepare(prepare(weight, format="int4")), atol=1e-6
    )


def test_mistakes_are_named() -> None:
    weight = weight_of((40, 8))
    with pytest.raises(ValueError, match="expected a format of"):
        prepare(weight, format="int3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a divisor of D=40 for int8, got 16"):
        prepare(weight, format="int8", group_size=16)
    with pytest.raises(ValueError, match="a multiple of 8 that divides D=40 for int4, got 20"):
        prepare(weight, format="int4", group_size=20)
    with pytest.raises(ValueError, match="float32 has no scales"):
        prepare(weight, format="float32", group_size=8)
    with pytest.raises(ValueError, match='axes must be "DF" or "VD"'):
        prepare(weight, format="int8", axes="FD")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a stack"):
        prepare(weight, format="int8").at_layer(0)
    with pytest.raises(ValueError, match="leading axes"):
        take_rows(prepare(weight_of((3, 40, 8)), format="int8"), jnp.asarray([1]))
