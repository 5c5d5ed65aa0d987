"""Cross-entropy: one suite, every implementation, values and gradients against float64.

Axes: N tokens, D model, V vocabulary.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import assert_close
from trellax.kernels.cross_entropy import cross_entropy, explain

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "z_loss": {"z_loss_scale": 0.05},
    "soft_cap": {"soft_cap": 2.0, "z_loss_scale": 0.05},
    "weights": {"weights": np.linspace(0, 2, 21).astype(np.float32)},
    "tied": {"unembedding_axes": "VD", "z_loss_scale": 0.05},
}


def inputs(dtype: str = "float32") -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    hidden, unembedding = rng.normal(size=(21, 8)), rng.normal(size=(8, 50))
    targets = rng.integers(-1, 50, size=21).astype(np.int32)
    targets[3] = -1
    return hidden.astype(dtype), unembedding.astype(dtype), targets


def reference(hidden: Any, unembedding: Any, targets: Any, **options: Any) -> list[Any]:
    """Total, loss, z-loss, weight and the gradients of total, from the formulas, in float64."""
    h, u = np.asarray(hidden, np.float64), np.asarray(unembedding, np.float64)
    cap, z_scale = options.get("soft_cap"), options.get("z_loss_scale", 0.0)
    raw = h @ u
    logits = cap * np.tanh(raw / cap) if cap else raw
    lse = np.log(np.exp(logits).sum(-1))
    w = options.get("weights", np.ones(len(targets))) * (targets >= 0)
    one_hot = np.eye(u.shape[1])[np.maximum(targets, 0)]
    loss = (w * (lse - (logits * one_hot).sum(-1))).sum()
    z_loss = z_scale * (w * lse**2).sum()
    p = np.exp(logits - lse[:, None])
    d = w[:, None] * (p - one_hot + 2 * z_scale * lse[:, None] * p)
    d = d * (1 - (logits / cap) ** 2) if cap else d
    return [loss + z_loss, loss, z_loss, w.sum(), d @ u.T, h.T @ d]


class CrossEntropySuite:
    """Subclass and set `options`."""

    options: ClassVar[dict[str, Any]]

    @pytest.mark.parametrize("name", OPTIONS)
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_sums_and_gradients_match_float64(self, name: str, dtype: str) -> None:
        hidden, unembedding, targets = inputs(dtype)
        options = OPTIONS[name]
        tied = options.get("unembedding_axes") == "VD"

        def sums(hidden: jax.Array, unembedding: jax.Array) -> tuple[jax.Array, Any]:
            out = cross_entropy(hidden, unembedding, targets, **options, **self.options)
            return out.total, out

        given_table = unembedding.T if tied else unembedding
        gradient_fn = jax.jit(jax.grad(sums, argnums=(0, 1), has_aux=True))
        (d_hidden, d_unembedding), out = gradient_fn(hidden, given_table)
        assert d_hidden.dtype == d_unembedding.dtype == dtype and out.total.dtype == jnp.float32
        *expected, expected_d_hidden, expected_d_unembedding = reference(
            hidden, unembedding, targets, **options
        )
        for actual, value in zip(out, expected, strict=True):
            assert_close(actual, value, dtype=dtype)
        assert_close(d_hidden, expected_d_hidden, dtype=dtype, gradient=True)
        d_unembedding = d_unembedding.T if tied else d_unembedding
        assert_close(d_unembedding, expected_d_unembedding, dtype=dtype, gradient=True)

    def test_without_gradient_gives_the_same_sums(self) -> None:
        arrays = inputs()
        for actual, value in zip(cross_entropy(*arrays, **self.options), reference(*arrays)):
            assert_close(actual, value)

    def test_only_total_carries_a_gradient(self) -> None:
        hidden, unembedding, targets = inputs()

        def reports(hidden: jax.Array) -> jax.Array:
            out = cross_entropy(hidden, unembedding, targets, z_loss_scale=0.1, **self.options)
            return out.loss + out.z_loss + out.weight

        assert not np.asarray(jax.grad(reports)(hidden)).any()

    def test_no_targets_at_all_is_zero_not_nan(self) -> None:
        hidden, unembedding, targets = inputs()
        none = np.full_like(targets, -1)

        def total(hidden: jax.Array) -> jax.Array:
            return cross_entropy(hidden, unembedding, none, **self.options).total

        value, gradient = jax.value_and_grad(total)(hidden)
        assert value == 0 and not np.asarray(gradient).any()


class TestDense(CrossEntropySuite):
    options: ClassVar = {"implementation": "dense"}


class TestChunkedEvenly(CrossEntropySuite):
    options: ClassVar = {"implementation": "chunked", "chunk_size": 7}


class TestChunkedRaggedly(CrossEntropySuite):
    options: ClassVar = {"implementation": "chunked", "chunk_size": 8}


class TestOneChunk(CrossEntropySuite):
    options: ClassVar = {"implementation": "chunked", "chunk_size": 100}


@given(st.integers(1, 30))
@settings(deadline=None, max_examples=8)
def test_chunk_size_does_not_change_the_sums(chunk_size: int) -> None:
    arrays = inputs()
    out = cross_entropy(*arrays, chunk_size=chunk_size, implementation="chunked")
    assert_close(out.total, reference(*arrays)[0])


def test_logits_are_never_all_kept() -> None:
    N, D, V = 4096, 16, 4096
    shapes = [(N, D), (D, V)]
    h, u = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    t = jax.ShapeDtypeStruct((N,), jnp.int32)

    def total(h: Any, u: Any, t: Any) -> jax.Array:
        return cross_entropy(h, u, t, implementation="chunked", chunk_size=256).total

    compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(h, u, t).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None and analysis.temp_size_in_bytes < 4 * N * V / 3


def test_small_logits_are_computed_at_once() -> None:
    def struct(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    def choice(N: int) -> str:
        return explain(struct(N, 8), struct(8, 8192), struct(N, dtype=jnp.int32)).name

    assert (choice(64), choice(1 << 16)) == ("dense", "chunked")


def test_bad_arguments_are_named() -> None:
    hidden, unembedding, targets = inputs()
    with pytest.raises(ValueError, match=r"unembedding \[V, D\]"):
        cross_entropy(hidden, unembedding, targets, unembedding_axes="VD")
    with pytest.raises(ValueError, match="at least 1"):
        cross_entropy(hidden, unembedding, targets, chunk_size=0)
