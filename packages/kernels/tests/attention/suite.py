"""What every implementation of attention must satisfy: parity with float64 NumPy, values and gradients.

Axes as in `trellax.kernels.attention`. A test class subclasses `AttentionSuite` and names its implementation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import assert_close
from trellax.kernels.attention import AlibiBias, attention, explain
from trellax.kernels.masks import CausalMask, FullMask, Mask, SegmentMask, SlidingWindowMask

NO_MASK = FullMask()


@dataclasses.dataclass(frozen=True)
class Case:
    """Shapes and options of one call."""

    name: str
    B: int = 2
    S: int = 24
    T: int = 24
    N: int = 4
    K: int = 4
    H: int = 8
    mask: Mask = NO_MASK
    segments: bool = False
    positions: bool = False
    alibi: bool = False
    dense_bias: bool = False
    soft_cap: float | None = None
    scale: float | None = None
    dtype: str = "float32"


CASES = [
    Case("full"),
    Case("cross_lengths", S=10, T=19),
    Case("causal", mask=CausalMask()),
    Case("causal_ragged", S=37, T=37, mask=CausalMask()),
    Case("window", mask=SlidingWindowMask(5)),
    Case("grouped_query", K=2, mask=CausalMask()),
    Case("multi_query", K=1, mask=CausalMask()),
    Case("packed", mask=CausalMask() & SegmentMask(), segments=True),
    Case("packed_window", K=2, mask=SlidingWindowMask(4) & SegmentMask(), segments=True),
    Case("segments_both_ways", mask=SegmentMask(), segments=True),
    Case("segment_mask_without_segments", mask=CausalMask() & SegmentMask()),
    Case("decode", S=1, T=30, mask=CausalMask(), positions=True),
    Case("explicit_positions", K=2, S=7, T=30, mask=SlidingWindowMask(6), positions=True),
    Case("alibi", K=2, mask=CausalMask(), alibi=True),
    Case("dense_bias", K=2, mask=CausalMask(), dense_bias=True),
    Case("soft_cap", mask=CausalMask(), soft_cap=2.0),
    Case("scale", mask=CausalMask(), scale=0.7),
    Case("bfloat16", K=2, mask=CausalMask(), dtype="bfloat16"),
]


def make_inputs(case: Case) -> tuple[list[Any], dict[str, Any]]:
    """Query, key, value and the options of a case, from a fixed seed."""
    rng = np.random.default_rng(0)
    shapes = [(case.B, case.S, case.N, case.H)] + [(case.B, case.T, case.K, case.H)] * 2
    arrays = [rng.normal(size=shape).astype(case.dtype) for shape in shapes]
    options: dict[str, Any] = {"mask": case.mask, "soft_cap": case.soft_cap, "scale": case.scale}
    if case.segments:
        bounds = np.sort(rng.integers(1, case.S, size=(case.B, 3)), axis=1)
        ids = (np.arange(case.S)[None, :, None] >= bounds[:, None]).sum(-1) + 1
        ids = np.where(ids == 4, 0, ids).astype(np.int32)
        options |= {"query_segments": ids, "key_segments": ids}
    if case.positions:
        last = rng.integers(case.S, case.T, size=(case.B, 1))
        options["query_positions"] = (last - case.S + 1 + np.arange(case.S)).astype(np.int32)
        options["key_positions"] = np.arange(case.T, dtype=np.int32)[None]
    if case.alibi:
        options["bias"] = AlibiBias.for_heads(case.N)
    if case.dense_bias:
        options["bias"] = rng.normal(size=(1, case.N, case.S, case.T)).astype(np.float32)
    return arrays, options


def reference(case: Case, arrays: list, options: dict[str, Any], xp: Any = np) -> Any:
    """Attention spelt out head by head, without any code of the package but the mask's own truth."""
    q, k, v = (x.astype(np.float64 if xp is np else np.float32) for x in arrays)
    k, v = (xp.repeat(x, case.N // case.K, axis=2) for x in (k, v))
    scale = case.scale or 1 / math.sqrt(case.H)
    s = xp.einsum("bsnh,btnh->bnst", q, k) * scale
    s = case.soft_cap * xp.tanh(s / case.soft_cap) if case.soft_cap else s
    q_pos = options.get("query_positions", np.arange(case.S)[None])[:, None, :, None]
    k_pos = options.get("key_positions", np.arange(case.T)[None])[:, None, None, :]
    if case.alibi:
        slopes = np.asarray(options["bias"].slopes)[None, :, None, None]
        s = s - slopes * (q_pos - k_pos)
    s = s + options["bias"] if case.dense_bias else s
    allowed = _allowed(case, options, q_pos, k_pos)
    p = xp.where(allowed, xp.exp(s - s.max(-1, keepdims=True)), 0.0)
    p = p / xp.maximum(p.sum(-1, keepdims=True), 1e-30)
    return xp.einsum("bnst,btnh->bsnh", p, v)


def _allowed(case: Case, options: dict[str, Any], q_pos: Any, k_pos: Any) -> np.ndarray:
    allowed = np.ones(np.broadcast_shapes(q_pos.shape, k_pos.shape), bool)
    if case.mask.is_causal:
        allowed = allowed & (k_pos <= q_pos)
    if case.mask.window:
        allowed = allowed & (q_pos - k_pos < case.mask.window)
    if case.segments:
        ids = options["query_segments"]
        same = ids[:, :, None] == ids[:, None, :]
        allowed = allowed & (same & (ids != 0)[:, :, None])[:, None]
    return allowed


class AttentionSuite:
    """Subclass, set `implementation`, and override `run` and `cases` where a test needs help."""

    implementation: str

    def cases(self) -> list[Case]:
        return CASES

    def run(self, q: Any, k: Any, v: Any, **options: Any) -> jax.Array:
        return attention(q, k, v, implementation=self.implementation, **options)

    def why_not(self, arrays: list, options: dict[str, Any]) -> str | None:
        try:
            explain(*arrays, implementation=self.implementation, **options)
        except NotImplementedError as error:
            return str(error)
        return None

    @pytest.mark.parametrize("name", [case.name for case in CASES])
    def test_values_and_gradients_match_float64(self, name: str) -> None:
        (case,) = (case for case in self.cases() if case.name == name)
        arrays, options = make_inputs(case)
        if self.why_not(arrays, options):
            pytest.skip("refused, with a reason")
        jax_arrays = [jnp.asarray(x) for x in arrays]
        actual = jax.jit(lambda *qkv: self.run(*qkv, **options))(*jax_arrays)
        assert actual.dtype == case.dtype
        assert_close(actual, reference(case, arrays, options), dtype=case.dtype)

        def loss(fn: Callable[[Any], Any], qkv: Any) -> jax.Array:
            return (fn(qkv).astype(jnp.float32) * jnp.cos(jnp.arange(case.H))).sum()

        actual = jax.jit(jax.grad(lambda x: loss(lambda y: self.run(*y, **options), x)))(jax_arrays)
        wide = [x.astype(jnp.float32) for x in jax_arrays]
        expected = jax.grad(lambda x: loss(lambda y: reference(case, y, options, jnp), x))(wide)
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e, dtype=case.dtype, gradient=True)

    def test_padding_rows_are_zero_and_pass_no_gradient(self) -> None:
        (case,) = (case for case in self.cases() if case.name == "packed")
        arrays, options = make_inputs(case)
        padding = options["query_segments"] == 0
        assert padding.any()
        out = self.run(*map(jnp.asarray, arrays), **options)
        assert not np.asarray(out)[padding].any()
        grad = jax.grad(lambda q: (self.run(q, *arrays[1:], **options) ** 2).sum())(arrays[0])
        assert not np.asarray(grad)[padding].any() and np.isfinite(grad).all()

    def test_heads_are_independent(self) -> None:
        (case,) = (case for case in self.cases() if case.name == "causal")
        (q, k, v), options = make_inputs(case)
        order = np.random.default_rng(1).permutation(case.N)
        permuted = self.run(q[:, :, order], k[:, :, order], v[:, :, order], **options)
        assert_close(permuted, np.asarray(self.run(q, k, v, **options))[:, :, order])
