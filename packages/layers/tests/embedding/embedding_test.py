"""Embeddings look up, attend, and add gradients up in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.calls import built, called, draws
from tests.tolerances import TOLERANCE
from trellax.layers.embedding import (
    Embedding,
    LearnedPositionEmbedding,
    SinusoidalPositionEmbedding,
)

IDS_BS = jnp.array([[0, 3, 3], [9, 1, 0]])


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 1.0), (0.5, 0.5), ("sqrt_dim", 4.0)])
def test_lookup_is_the_row_times_the_scale(scale: float | str, factor: float):
    layer, params = built(Embedding.default_config().set(num_embeddings=10, dim=16, scale=scale))
    y, _ = called(layer, params, IDS_BS)
    np.testing.assert_allclose(y, factor * np.asarray(params["weight"])[IDS_BS], rtol=1e-6)


def test_an_id_outside_of_the_table_gives_nan_and_not_another_row():
    layer, params = built(Embedding.default_config().set(num_embeddings=10, dim=4))
    y, _ = called(layer, params, jnp.array([[10, 1]]))
    assert np.isnan(y[0, 0]).all() and not np.isnan(y[0, 1]).any()


def test_attend_is_the_product_with_all_rows_in_float32():
    layer, params = built(Embedding.default_config().set(num_embeddings=10, dim=16))
    x = draws(1, 2, 3, 16, dtype="bfloat16")
    logits, _ = called(layer, params, x, method="attend")
    assert logits.dtype == jnp.float32
    weight = params["weight"].astype("bfloat16").astype("float32")
    np.testing.assert_allclose(logits, x.astype("float32") @ weight.T, **TOLERANCE["float32"])
    unembedding, _ = called(layer, params, method="unembedding")
    assert unembedding.axes == "VD" and unembedding.weight is params["weight"]
    assert layer.attend_flops_per_token() == 2 * 10 * 16


def test_gradients_of_a_frequent_id_are_exact_in_low_precision():
    layer, params = built(Embedding.default_config().set(num_embeddings=3, dim=2))
    params = jax.tree.map(lambda p: p.astype("bfloat16"), params)
    ids = jnp.ones((1, 2048), jnp.int32)
    grads = jax.grad(lambda p: called(layer, p, ids)[0].astype("float32").sum())(params)
    assert grads["weight"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(grads["weight"].astype("float32")[1], [2048.0, 2048.0])
    np.testing.assert_array_equal(grads["weight"].astype("float32")[::2], np.zeros((2, 2)))


def test_learned_positions_are_rows():
    layer, params = built(LearnedPositionEmbedding.default_config().set(max_length=8, dim=4))
    y, _ = called(layer, params, jnp.array([[5, 0]]))
    np.testing.assert_array_equal(y, np.asarray(params["weight"])[[[5, 0]]])


def test_sinusoids_equal_their_formula():
    layer, params = built(SinusoidalPositionEmbedding.default_config().set(dim=6))
    y, _ = called(layer, params, jnp.array([[0, 7]]))
    angles = np.array([[0.0], [7.0]]) / 10_000.0 ** (np.arange(3) / 3)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    np.testing.assert_allclose(y[0], expected, **TOLERANCE["float32"])
