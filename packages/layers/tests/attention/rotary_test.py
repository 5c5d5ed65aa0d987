"""RoPE against its published formulas, and the invariances that it is made for."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention.reference import TOLERANCE, turned
from trellax.config import ConfigError
from trellax.layers.attention import (
    LinearRopeScaling,
    Llama3RopeScaling,
    RotaryPositions,
)
from trellax.layers.module import functional

B, S, N, H = 2, 5, 3, 16


def rotary(**fields: Any) -> Any:
    cfg = RotaryPositions.default_config().set(num_heads=N, head_dim=H)
    return cfg.set(**fields).instantiate(name="positions")


def encoded(layer: Any, query: Any, key: Any, positions: Any = None) -> Any:
    args = (query, key, positions, positions)
    return functional(layer, params={}, args=args, is_training=False)[0]


def heads(seed: int, num_heads: int = N) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (B, S, num_heads, H))


def test_equals_complex_rotation():
    query, positions = heads(0), jax.random.randint(jax.random.key(1), (B, S), 0, 2000)
    got = encoded(rotary(theta=5e5), query, heads(2, 1), positions)
    assert got.bias is None
    for b, s, n in np.ndindex(B, S, N):
        expected = turned(np.float64(query[b, s, n]), int(positions[b, s]), 5e5)
        # float32 angles: an error of position · 2^-24 radians.
        np.testing.assert_allclose(got.query[b, s, n], expected, rtol=0, atol=2000 * 2.0**-22)


def test_interleaved_is_half_split_with_other_dims_paired():
    query, key = heads(0), heads(1)
    order = np.arange(H).reshape(2, H // 2).T.ravel()  # 0, R, 1, R+1, …: pairs side by side.
    half = encoded(rotary(), query, key)
    interleaved = encoded(rotary(pairing="interleaved"), query[..., order], key[..., order])
    np.testing.assert_array_equal(interleaved.query, half.query[..., order])
    np.testing.assert_array_equal(interleaved.key, half.key[..., order])


def test_a_fraction_turns_the_first_dims_only():
    query = heads(0)
    got = encoded(rotary(rotary_fraction=0.25), query, query).query
    np.testing.assert_array_equal(got[..., 4:], query[..., 4:])
    for s in range(S):
        expected = turned(np.float64(query[0, s, 0, :4]), s)
        np.testing.assert_allclose(got[0, s, 0, :4], expected, **TOLERANCE["float32"])


def published_llama3(frequency: float) -> float:
    """`apply_scaling` of Meta's Llama 3.1 reference code, one frequency at a time."""
    low_wavelength, high_wavelength = 8192 / 1, 8192 / 4
    wavelength = 2 * math.pi / frequency
    if wavelength < high_wavelength:
        return frequency
    if wavelength > low_wavelength:
        return frequency / 8
    smooth = (8192 / wavelength - 1) / (4 - 1)
    return (1 - smooth) * frequency / 8 + smooth * frequency


def test_llama3_scaling_equals_published_code():
    frequencies = 500_000.0 ** -(np.arange(0, 128, 2) / 128)
    got = Llama3RopeScaling.default_config().instantiate().frequencies(frequencies)
    expected = [published_llama3(f) for f in frequencies]
    assert len({round(f / g, 6) for f, g in zip(frequencies, got)}) > 3, "all three ranges occur"
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_linear_scaling_squeezes_positions():
    query, positions = heads(0), jnp.arange(S)[None].repeat(B, 0)
    scaled = rotary(scaling=LinearRopeScaling.default_config().set(factor=4.0))
    np.testing.assert_allclose(
        encoded(scaled, query, query, 4 * positions).query,
        encoded(rotary(), query, query, positions).query,
        **TOLERANCE["float32"],
    )


def test_bfloat16_heads_are_turned_in_float32():
    query, positions = heads(0).astype(jnp.bfloat16), jnp.full((B, S), 100_001)
    got = encoded(rotary(), query, query, positions).query
    exact = encoded(rotary(), query.astype(jnp.float32), query.astype(jnp.float32), positions).query
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))


@settings(max_examples=30, deadline=None)
@given(
    distance=st.integers(-300, 300),
    places=st.tuples(st.integers(300, 2000), st.integers(300, 2000)),
    pairing=st.sampled_from(["half", "interleaved"]),
)
def test_scores_depend_on_distance_alone(distance, places, pairing):
    layer, query, key = rotary(pairing=pairing), heads(0), heads(1)

    def scores(place: int) -> jax.Array:
        at = [jnp.full((B, S), p) for p in (place, place - distance)]
        got, _ = functional(layer, params={}, args=(query, key, *at), is_training=False)
        return jnp.einsum("bsnh,bsnh->bsn", got.query, got.key)

    np.testing.assert_allclose(scores(places[0]), scores(places[1]), rtol=0, atol=2e-2)


@settings(max_examples=20, deadline=None)
@given(position=st.integers(0, 100_000))
def test_turning_keeps_lengths(position):
    query = heads(0)
    got = encoded(rotary(), query, query, jnp.full((B, S), position)).query
    np.testing.assert_allclose(
        jnp.linalg.norm(got, axis=-1), jnp.linalg.norm(query, axis=-1), **TOLERANCE["float32"]
    )


@pytest.mark.parametrize("fraction", [0.0, 1.5, 0.2])
def test_fractions_that_turn_no_whole_pairs_are_refused(fraction):
    with pytest.raises(ConfigError, match="rotary_fraction"):
        rotary(rotary_fraction=fraction)


def test_scaling_configs_are_checked():
    with pytest.raises(ConfigError, match="low_frequency_factor"):
        Llama3RopeScaling.default_config().set(low_frequency_factor=5.0).instantiate()
    with pytest.raises(ConfigError, match="factor must be at least 1"):
        LinearRopeScaling.default_config().set(factor=0.5).instantiate()
