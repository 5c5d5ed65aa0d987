"""Documents packed into one row are as good as alone, and padding is as good as absent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention.reference import TOLERANCE, built, called, small_config
from trellax.layers.attention import (
    AlibiPositions,
    Causal,
    Full,
    NoPositions,
    RotaryPositions,
    SinusoidalPositions,
    SlidingWindow,
    TokenInfo,
)

S, D = 12, 32
LAYERS = {
    "rotary": small_config(),
    "alibi": small_config(positions=AlibiPositions.default_config()),
    "sinusoidal": small_config(positions=SinusoidalPositions.default_config()),
    "none": small_config(positions=NoPositions.default_config()),
    "sliding": small_config(mask=SlidingWindow.default_config().set(window=2)),
    "full": small_config(mask=Full.default_config()),
}


def packed(lengths: tuple[int, ...]) -> TokenInfo:
    """One row: documents 1, 2, … of these lengths, then padding."""
    padding = S - sum(lengths)
    positions = np.concatenate([*(np.arange(n) for n in lengths), np.zeros(padding, int)])
    segments = np.concatenate([np.repeat(np.arange(len(lengths)) + 1, lengths), [0] * padding])
    return TokenInfo(jnp.int32(positions)[None], jnp.int32(segments)[None])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("lengths", [(5, 4, 3), (1, 10), (7,)], ids=str)
def test_each_document_is_as_if_alone(name, lengths):
    layer, params = built(LAYERS[name])
    x_1SD = jax.random.normal(jax.random.key(1), (1, S, D))
    y_1SD = called(layer, params, x_1SD, packed(lengths))
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        alone_1SD = called(layer, params, x_1SD[:, part], TokenInfo())
        np.testing.assert_allclose(y_1SD[:, part], alone_1SD, **TOLERANCE["float32"])
        start += length


def test_padding_changes_nothing_and_gets_no_gradient():
    layer, params = built(small_config())
    x_1SD = jax.random.normal(jax.random.key(1), (1, S, D))

    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(called(layer, params, x, packed((8,)))[:, :8]))

    gradient_1SD = jax.grad(total)(x_1SD)
    np.testing.assert_array_equal(gradient_1SD[:, 8:], 0.0)
    np.testing.assert_allclose(total(x_1SD), total(x_1SD.at[:, 8:].set(1e4)), rtol=1e-6)


@settings(max_examples=8, deadline=None)
@given(order=st.permutations([0, 1, 2]))
def test_order_of_documents_does_not_matter(order):
    layer, params = built(small_config(mask=Causal.default_config()))
    x_1SD = jax.random.normal(jax.random.key(1), (1, S, D))
    index = np.concatenate([np.arange(4 * i, 4 * i + 4) for i in order])
    tokens = packed((4, 4, 4))
    y_1SD = called(layer, params, x_1SD, tokens)
    swapped = TokenInfo(tokens.positions_BS, tokens.segment_ids_BS[:, index])
    got_1SD = called(layer, params, x_1SD[:, index], swapped)
    np.testing.assert_allclose(got_1SD, y_1SD[:, index], **TOLERANCE["float32"])


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(list(range(6))))
def test_without_mask_and_positions_attention_is_a_set_function(order):
    cfg = small_config(mask=Full.default_config(), positions=NoPositions.default_config())
    layer, params = built(cfg)
    x_1SD = jax.random.normal(jax.random.key(1), (1, 6, D))
    y_1SD = called(layer, params, x_1SD, TokenInfo())
    got_1SD = called(layer, params, x_1SD[:, np.array(order)], TokenInfo())
    np.testing.assert_allclose(got_1SD, y_1SD[:, np.array(order)], **TOLERANCE["float32"])


@settings(max_examples=8, deadline=None)
@given(offset=st.integers(0, 5000))
def test_rotary_rows_may_start_anywhere(offset):
    layer, params = built(small_config(positions=RotaryPositions.default_config()))
    x_1SD = jax.random.normal(jax.random.key(1), (1, 6, D))
    shifted = called(layer, params, x_1SD, TokenInfo.contiguous(1, 6, start=offset))
    np.testing.assert_allclose(
        shifted, called(layer, params, x_1SD, TokenInfo()), rtol=0, atol=2e-3
    )
