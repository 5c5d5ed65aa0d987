"""What every implementation of matmul must satisfy: parity with float64 NumPy on the numbers that a weight really holds.

Axes as in `trellax.kernels.matmul`. A test class subclasses `MatmulSuite` and names its implementation.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from tests.tolerances import assert_close
from trellax.kernels.matmul import PreparedWeight, matmul, prepare, unprepare
from trellax.kernels.matmul.formats import FORMATS

SHAPES = [(576, 48), (32, 7), (8, 100)]
ROWS = [(13,), (2, 3, 7), ()]


def weight_of(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    values = np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[-2])
    return jnp.asarray(values, jnp.float32)


def rows_of(shape: tuple[int, ...], dtype: str = "float32") -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32).astype(dtype)


def reference(x: Any, weight: PreparedWeight) -> np.ndarray:
    """In float64, on [D, F]."""
    weight_DF = np.asarray(unprepare(weight), np.float64)
    if weight.spec.rounds_inputs:
        x = rounded(np.asarray(x, np.float32), weight.spec.group_size)
    return np.asarray(x, np.float64) @ (weight_DF.T if weight.axes == "VD" else weight_DF)


def rounded(x: np.ndarray, group_size: int) -> np.ndarray:
    """Rows as integers of eight bits times a scale for each group."""
    groups = x.reshape(*x.shape[:-1], -1, group_size)
    largest = np.abs(groups).max(axis=-1, keepdims=True)
    codes = np.rint(groups * (np.float32(127) / np.where(largest == 0, np.float32(1), largest)))
    return (codes * (largest / 127)).reshape(x.shape)


class MatmulSuite:
    """Subclass and set `implementation`."""

    implementation: str
    layout: Any = "panels"

    def prepare(self, weight: Any, **options: Any) -> PreparedWeight:
        return prepare(weight, layout=self.layout, **options)

    def run(self, x: Any, weight: Any, **options: Any) -> jax.Array:
        return matmul(x, weight, implementation=self.implementation, **options)

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_values_match_float64(self, format: Any, dtype: str) -> None:
        fn = jax.jit(self.run)
        for D, F in SHAPES:
            weight = self.prepare(weight_of((D, F)), format=format)
            x = rows_of((5, D), dtype)
            out = fn(x, weight)
            assert out.dtype == dtype
            assert_close(out, reference(x, weight), dtype=dtype)

    @pytest.mark.parametrize("format", FORMATS)
    def test_any_leading_axes(self, format: Any) -> None:
        weight, run = self.prepare(weight_of((64, 40)), format=format), jax.jit(self.run)
        for rows in ROWS:
            x = rows_of((*rows, 64))
            assert_close(run(x, weight), reference(x, weight))

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_logits_in_float32_of_an_embedding(self, format: Any, dtype: str) -> None:
        weight = self.prepare(weight_of((100, 64)), format=format, axes="VD")
        x = rows_of((3, 64), dtype)
        out = self.run(x, weight, output_dtype=jnp.float32)
        assert out.dtype == jnp.float32 and out.shape == (3, 100)
        rounded = dtype == "bfloat16" and format != "bfloat16" and self.implementation == "xla"
        assert_close(out, reference(x, weight), dtype="bfloat16" if rounded else "float32")

    @pytest.mark.parametrize("format", FORMATS)
    def test_a_scanned_stack_equals_its_layers(self, format: Any) -> None:
        stack = weight_of((3, 64, 64))
        weight = self.prepare(stack, format=format)
        x = rows_of((5, 64))
        expected = x
        for layer in stack:
            expected = self.run(expected, self.prepare(layer, format=format))
        sliced = jax.lax.scan(lambda x, w: (self.run(x, w), None), x, weight)[0]
        by_index = lambda x, i: (self.run(x, weight.at_layer(i)), None)
        assert_close(sliced, expected)
        assert_close(jax.jit(lambda x: jax.lax.scan(by_index, x, jnp.arange(3))[0])(x), expected)

    def test_rows_may_be_batched_by_vmap(self) -> None:
        weight = self.prepare(weight_of((64, 40)), format="float32")
        x = rows_of((3, 5, 64))
        out = jax.jit(jax.vmap(lambda x: self.run(x, weight)))(x)
        assert_close(out, reference(x, weight))

    def test_devices_may_split_the_outputs(self) -> None:
        halves = weight_of((2, 64, 48))
        weight = jax.tree.map(np.asarray, self.prepare(halves, format="int8"))
        x = np.asarray(rows_of((5, 64)))
        device, none = PartitionSpec("model"), PartitionSpec()
        with jax.set_mesh(Mesh(jax.devices()[:2], ("model",))):
            fn = jax.shard_map(
                lambda x, w: self.run(x, w.at_layer(0)),
                in_specs=(none, device),
                out_specs=PartitionSpec(None, "model"),
            )
            out = jax.jit(fn)(x, weight)
        each = [reference(x, weight.at_layer(i)) for i in range(2)]
        assert_close(out, np.concatenate(each, axis=1))
