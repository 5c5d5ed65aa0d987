"""Position encodings other than RoPE against their papers' formulas."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.reference import TOLERANCE
from trellax.layers.attention import AlibiPositions, NoPositions, SinusoidalPositions
from trellax.layers.module import functional

B, S, N, K, H = 2, 5, 4, 2, 6


def encoded(component: Any, num_heads: int = N, positions: Any = None) -> Any:
    cfg = component.default_config().set(num_heads=num_heads, head_dim=H)
    query = jax.random.normal(jax.random.key(0), (B, S, num_heads, H))
    key = jax.random.normal(jax.random.key(1), (B, S, K, H))
    layer, args = cfg.instantiate(name="positions"), (query, key, positions, positions)
    return query, key, functional(layer, params={}, args=args, is_training=False)[0]


@pytest.mark.parametrize("num_heads", [1, 8, 16])
def test_alibi_slopes_are_the_papers_for_powers_of_two(num_heads):
    # "start at 2^(-8/n) and use that same value as ratio" (2108.12409, section 3)
    query, key, got = encoded(AlibiPositions, num_heads)
    ratio = 2 ** (-8 / num_heads)
    bias_BNST = got.bias.dense(jnp.array([[7]]), jnp.array([[5]]))
    np.testing.assert_allclose(
        bias_BNST[0, :, 0, 0], [-2 * ratio ** (n + 1) for n in range(num_heads)]
    )
    np.testing.assert_array_equal(got.query, query)
    np.testing.assert_array_equal(got.key, key)


def test_no_positions_change_nothing():
    query, key, got = encoded(NoPositions)
    assert got.bias is None and got.query.shape == query.shape
    np.testing.assert_array_equal(got.query, query)
    np.testing.assert_array_equal(got.key, key)


def test_sinusoids_equal_the_papers_formula():
    positions = jax.random.randint(jax.random.key(2), (B, S), 0, 100)
    query, key, got = encoded(SinusoidalPositions, positions=positions)
    for b, s in np.ndindex(B, S):
        angles = int(positions[b, s]) / 10_000 ** (2 * np.arange(H // 2) / H)
        table = np.concatenate([np.sin(angles), np.cos(angles)])
        np.testing.assert_allclose(got.query[b, s], query[b, s] + table, **TOLERANCE["float32"])
        np.testing.assert_allclose(got.key[b, s], key[b, s] + table, **TOLERANCE["float32"])
