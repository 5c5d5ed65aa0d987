"""Grouped matrix products: one suite, every implementation.

Axes: M rows, K contracted, N columns, G groups.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import assert_close
from trellax.kernels.grouped_matmul import explain, grouped_matmul

SIZES = [[4, 0, 11, 5], [20, 0, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4], [5, 5, 5, 5]]


def inputs(M: int = 20, G: int = 4, dtype: str = "float32") -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(M, 6)).astype(dtype), rng.normal(size=(G, 6, 5)).astype(dtype)


def reference(lhs: np.ndarray, rhs: np.ndarray, sizes: list[int]) -> np.ndarray:
    out, start = np.zeros((lhs.shape[0], rhs.shape[2])), 0
    for group, size in enumerate(sizes):
        rows = slice(start, start + size)
        out[rows] = lhs[rows].astype(np.float64) @ rhs[group].astype(np.float64)
        start += size
    return out


class GroupedMatmulSuite:
    """Subclass and set `implementation`."""

    implementation: str

    @pytest.mark.parametrize("sizes", SIZES)
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_values_match_float64(self, sizes: list[int], dtype: str) -> None:
        lhs, rhs = inputs(dtype=dtype)
        out = grouped_matmul(lhs, rhs, jnp.asarray(sizes), implementation=self.implementation)
        assert out.dtype == dtype
        assert_close(out, reference(lhs, rhs, sizes), dtype=dtype)

    @pytest.mark.parametrize("sizes", SIZES)
    def test_gradients_match_float64(self, sizes: list[int]) -> None:
        lhs, rhs = inputs()
        weights = np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32)

        def loss(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            out = grouped_matmul(lhs, rhs, jnp.asarray(sizes), implementation=self.implementation)
            return (out * weights).sum()

        d_lhs, d_rhs = jax.jit(jax.grad(loss, argnums=(0, 1)))(lhs, rhs)
        assert_close(d_lhs, reference(weights, rhs.transpose(0, 2, 1), sizes), gradient=True)
        ends = np.cumsum(sizes)
        expected = [lhs[e - s : e].T @ weights[e - s : e] for s, e in zip(sizes, ends, strict=True)]
        assert_close(d_rhs, np.stack(expected), gradient=True)


class TestRaggedDot(GroupedMatmulSuite):
    implementation = "ragged_dot"


class TestDense(GroupedMatmulSuite):
    implementation = "dense"


class TestBlocked(GroupedMatmulSuite):
    implementation = "blocked"

    @pytest.fixture(autouse=True)
    def small_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trellax.kernels.grouped_matmul.blocked.BLOCK_ROWS", 3)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.sampled_from(["dense", "blocked"]))
@settings(deadline=None, max_examples=12)
def test_any_sizes_agree_with_the_loop(sizes: list[int], implementation: str) -> None:
    lhs, rhs = inputs(M=30, G=len(sizes))
    out = grouped_matmul(lhs, rhs, jnp.asarray(sizes), implementation=implementation)
    assert_close(out, reference(lhs, rhs, sizes))


def test_bad_shapes_are_named() -> None:
    lhs, rhs = inputs()
    with pytest.raises(ValueError, match=r"rhs \[G, K, N\]"):
        grouped_matmul(lhs, rhs, jnp.asarray([1, 2]))
    assert explain(lhs, rhs, jnp.asarray([5] * 4)).name in ("ragged_dot", "dense", "blocked")


def test_equal_groups_known_while_tracing_are_one_batched_product() -> None:
    lhs, rhs = inputs()
    sizes = np.full(4, 5, np.int32)
    fn = lambda lhs, rhs: grouped_matmul(lhs, rhs, sizes)
    assert explain(lhs, rhs, sizes).name == "batched"
    assert_close(jax.jit(fn)(lhs, rhs), reference(lhs, rhs, [5] * 4))


@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [5, 5, 5, 4], [20, 0, 0, 0]])
def test_other_groups_are_not_batched(sizes: list[int]) -> None:
    lhs, rhs = inputs()
    assert explain(lhs, rhs, np.array(sizes)).name != "batched"
    with pytest.raises(NotImplementedError, match="not known, while tracing, to be equal"):
        grouped_matmul(lhs, rhs, np.array(sizes), implementation="batched")


@pytest.mark.parametrize("implementation", ["ragged_dot", "blocked", "dense"])
@pytest.mark.parametrize("num", [1, 3])
def test_vmap_equals_a_loop_gradients_included(implementation: str, num: int) -> None:
    lhs, rhs = inputs()
    lhs_BMK, rhs_BGKN = (np.stack([(i + 1) * x for i in range(num)]) for x in (lhs, rhs))
    sizes_BG = jnp.asarray([[4, 0, 11, 5], [1, 2, 3, 4], [0, 20, 0, 0]][:num])

    def loss(lhs: Any, rhs: Any, sizes: Any) -> Any:
        return jnp.sin(grouped_matmul(lhs, rhs, sizes, implementation=implementation)).sum()

    grad = jax.grad(loss, argnums=(0, 1))
    got = jax.jit(jax.vmap(grad))(lhs_BMK, rhs_BGKN, sizes_BG)
    each = [grad(*args) for args in zip(lhs_BMK, rhs_BGKN, sizes_BG, strict=True)]
    for found, *expected in zip(got, *each, strict=True):
        assert_close(found, np.stack(expected), gradient=True)
