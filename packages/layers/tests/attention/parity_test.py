"""Attention equals a float64 reference, for each kind of heads, positions and mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.reference import TOLERANCE, built, called, reference_row, small_config, turned
from trellax.layers.attention import (
    AlibiPositions,
    Causal,
    Full,
    FusedQKVProjection,
    NoPositions,
    RotaryPositions,
    SlidingWindow,
    TokenInfo,
)
from trellax.layers.norm import RMSNorm

B, S, D = 2, 7, 32

MASKS = {
    "causal": (Causal.default_config(), lambda s, t: t <= s),
    "sliding": (SlidingWindow.default_config().set(window=3), lambda s, t: s - 3 < t <= s),
    "full": (Full.default_config(), lambda s, t: True),
}
POSITIONS = {
    "rotary": (RotaryPositions.default_config(), {"rotary": turned}),
    "alibi": (AlibiPositions.default_config(), {"slopes_N": [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]}),
    "none": (NoPositions.default_config(), {}),
}


@pytest.fixture(name="x_BSD")
def inputs() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (B, S, D))


@pytest.mark.parametrize("num_kv_heads", [None, 2, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_equals_float64(num_kv_heads, mask, positions, x_BSD):
    (mask_cfg, allowed), (positions_cfg, encoding) = MASKS[mask], POSITIONS[positions]
    cfg = small_config(num_kv_heads=num_kv_heads, mask=mask_cfg, positions=positions_cfg)
    layer, params = built(cfg)
    y_BSD = called(layer, params, x_BSD, TokenInfo())
    for b in range(B):
        expected_SD = reference_row(params, x_BSD[b], np.arange(S), mask=allowed, **encoding)
        np.testing.assert_allclose(y_BSD[b], expected_SD, **TOLERANCE["float32"])


def test_bfloat16_is_near_float64(x_BSD):
    layer, params = built(small_config())
    y_BSD = called(layer, params, x_BSD.astype(jnp.bfloat16), TokenInfo())
    assert y_BSD.dtype == jnp.bfloat16
    expected_SD = reference_row(
        params, x_BSD[0], np.arange(S), mask=lambda s, t: t <= s, rotary=turned
    )
    np.testing.assert_allclose(y_BSD[0].astype(jnp.float32), expected_SD, **TOLERANCE["bfloat16"])


def test_rotary_uses_given_positions(x_BSD):
    positions = np.array([3, 4, 5, 20, 21, 40, 1000])
    layer, params = built(small_config())
    y_BSD = called(layer, params, x_BSD, TokenInfo(jnp.tile(positions, (B, 1))))
    expected_SD = reference_row(
        params, x_BSD[0], positions, mask=lambda s, t: t <= s, rotary=turned
    )
    np.testing.assert_allclose(y_BSD[0], expected_SD, **TOLERANCE["float32"])


def test_positions_left_out_are_those_from_zero(x_BSD):
    layer, params = built(small_config())
    implicit = called(layer, params, x_BSD, TokenInfo())
    explicit = called(layer, params, x_BSD, TokenInfo.contiguous(B, S))
    np.testing.assert_array_equal(implicit, explicit)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_fused_projection_equals_separate_ones(num_kv_heads, x_BSD):
    cfg = small_config(num_kv_heads=num_kv_heads)
    layer, params = built(cfg)
    fused_layer, fused_params = built(cfg.set(projection=FusedQKVProjection.default_config()))
    weights = {name: p["weight"] for name, p in params["projection"].items()}
    grouped_DKGH = weights["query"].reshape(D, num_kv_heads, -1, 8)
    parts = [grouped_DKGH, weights["key"][:, :, None], weights["value"][:, :, None]]
    fused_params["projection"] = {"fused": {"weight": jnp.concatenate(parts, axis=2)}}
    np.testing.assert_allclose(
        called(fused_layer, fused_params | {"output": params["output"]}, x_BSD, TokenInfo()),
        called(layer, params, x_BSD, TokenInfo()),
        **TOLERANCE["float32"],
    )


def test_query_and_key_norms_make_scores_independent_of_scale(x_BSD):
    norm = RMSNorm.default_config().set(eps=0.0)
    layer, params = built(small_config(query_norm=norm, key_norm=norm))
    assert params["query_norm"]["scale"].shape == (8,)
    scaled = jax.tree.map(lambda p: p, params)
    for name in ("query", "key"):
        scaled["projection"][name]["weight"] = 7.0 * params["projection"][name]["weight"]
    np.testing.assert_allclose(
        called(layer, scaled, x_BSD, TokenInfo()),
        called(layer, params, x_BSD, TokenInfo()),
        **TOLERANCE["float32"],
    )


def test_core_options_reach_the_scores(x_BSD):
    cfg = small_config(positions=NoPositions.default_config(), mask=Full.default_config())
    cfg.core.set(scale=0.0)
    layer, params = built(cfg)
    y_BSD = called(layer, params, x_BSD, TokenInfo())
    np.testing.assert_allclose(y_BSD, jnp.tile(y_BSD[:, :1], (1, S, 1)), **TOLERANCE["float32"])
    capped, _ = built(cfg.clone().set(core=cfg.core.clone().set(scale=1.0, soft_cap=1e-6)))
    np.testing.assert_allclose(
        called(capped, params, x_BSD, TokenInfo()), y_BSD, **TOLERANCE["float32"]
    )
