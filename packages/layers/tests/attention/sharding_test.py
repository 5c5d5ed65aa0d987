"""Attention on eight devices equals attention on one, in training and through the cache."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.reference import TOLERANCE, built, called, small_config
from trellax.layers.attention import FusedQKVProjection, QKVProjection, TokenInfo
from trellax.parallel import (
    MeshShape,
    build_mesh,
    fsdp_tensor_rules,
    sharding_scope,
    shardings_for,
)

B, S, T, D = 4, 8, 8, 32
MESHES = {"fsdp": MeshShape(fsdp=8), "fsdp_tensor": MeshShape(fsdp=4, model=2)}


def loss(layer: Any, params: Any, x_BSD: Any, tokens: TokenInfo) -> jax.Array:
    return jnp.mean(jnp.sin(called(layer, params, x_BSD, tokens)))


def decoded(layer: Any, params: Any, x_BSD: Any, state: Any) -> jax.Array:
    """Prefills half of the sequence and decodes the next token."""
    half = TokenInfo.contiguous(B, S // 2)
    y_BSD, state = called(layer, params, x_BSD[:, : S // 2], half, state)
    step = TokenInfo.contiguous(B, 1, start=S // 2)
    y_B1D, _ = called(layer, params, x_BSD[:, S // 2 : S // 2 + 1], step, state)
    return jnp.concatenate([y_BSD, y_B1D], axis=1)


@pytest.mark.parametrize("projection", [QKVProjection, FusedQKVProjection])
@pytest.mark.parametrize("mesh", MESHES)
def test_eight_devices_equal_one(projection, mesh):
    layer, params = built(small_config(projection=projection.default_config()))
    x_BSD = jax.random.normal(jax.random.key(1), (B, S, D))
    segments = jnp.array([[1] * S, [1] * 4 + [2] * 4, [1] * 6 + [0] * 2, [1] * S])
    trained = lambda p: jax.value_and_grad(lambda p: loss(layer, p, x_BSD, tokens))(p)
    tokens = TokenInfo(segment_ids_BS=segments)
    state = layer.init_state(batch_size=B, max_length=T)
    served = lambda p: decoded(layer, p, x_BSD, state)
    expected = jax.jit(trained)(params), jax.jit(served)(params)

    devices, rules = build_mesh(MESHES[mesh]), fsdp_tensor_rules()
    with sharding_scope(devices, rules):
        shardings = shardings_for(layer.all_parameter_specs(), devices, rules)
        placed = jax.device_put(params, shardings)
        got = jax.jit(trained)(placed), jax.jit(served)(placed)
    compare = lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE["float32"])
    jax.tree.map(compare, got, expected)
