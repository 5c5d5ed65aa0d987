"""Prefill and step-by-step decoding through the cache equal one forward pass over the whole sequence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.reference import TOLERANCE, built, called, small_config
from trellax.layers.attention import (
    AlibiPositions,
    Causal,
    Full,
    NoCache,
    NoPositions,
    RotaryPositions,
    SlidingWindow,
    TokenInfo,
)
from trellax.layers.module import functional
from trellax.layers.stack import ScannedStack, UnrolledStack
from trellax.layers.transformer import TransformerLayer

B, S, T, D = 2, 9, 12, 32

POSITIONS = {"rotary": RotaryPositions, "alibi": AlibiPositions, "none": NoPositions}
MASKS = {
    "causal": Causal.default_config(),
    "sliding": SlidingWindow.default_config().set(window=3),
}


def inputs() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (B, S, D))


def decoded(layer: Any, params: Any, x_BSD: Any, chunks: list[int]) -> Any:
    """Feeds the sequence in chunks of these lengths and returns all outputs."""
    state, done, outputs = layer.init_state(batch_size=B, max_length=T), 0, []
    step = jax.jit(lambda x, tokens, state: called(layer, params, x, tokens, state))
    for length in chunks:
        x_chunk = x_BSD[:, done : done + length]
        y_chunk, state = step(x_chunk, TokenInfo.contiguous(B, length, start=done), state)
        outputs.append(y_chunk)
        done += length
    return jnp.concatenate(outputs, axis=1)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_prefill_and_steps_equal_the_whole(num_kv_heads, mask, positions):
    cfg = small_config(
        num_kv_heads=num_kv_heads,
        mask=MASKS[mask],
        positions=POSITIONS[positions].default_config(),
    )
    layer, params = built(cfg)
    whole_BSD = called(layer, params, inputs(), TokenInfo())
    got_BSD = decoded(layer, params, inputs(), [5, 1, 1, 1, 1])
    np.testing.assert_allclose(got_BSD, whole_BSD, **TOLERANCE["float32"])


@pytest.mark.parametrize("chunks", [[9], [3, 3, 3], [1] * 9, [1, 7, 1]], ids=str)
def test_any_chunking_equals_the_whole(chunks):
    layer, params = built(small_config())
    whole_BSD = called(layer, params, inputs(), TokenInfo())
    got_BSD = decoded(layer, params, inputs(), chunks)
    np.testing.assert_allclose(got_BSD, whole_BSD, **TOLERANCE["float32"])


def test_empty_slots_are_not_read_even_without_a_mask():
    layer, params = built(small_config(mask=Full.default_config()))
    whole_BSD = called(layer, params, inputs(), TokenInfo())
    state = layer.init_state(batch_size=B, max_length=T)
    got_BSD, _ = called(layer, params, inputs(), TokenInfo.contiguous(B, S), state)
    np.testing.assert_allclose(got_BSD, whole_BSD, **TOLERANCE["float32"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_different_lengths_are_padded_on_either_side(side):
    layer, params = built(small_config())
    whole_BSD = called(layer, params, inputs(), TokenInfo())
    lengths, x_BSD, state = (3, 6), inputs(), layer.init_state(batch_size=B, max_length=T)
    rows = []
    for b, length in enumerate(lengths):
        pad = (6 - length, 0) if side == "left" else (0, 6 - length)
        rows.append(
            (
                jnp.pad(x_BSD[b, :length], (pad, (0, 0)), constant_values=77.0),
                jnp.pad(jnp.arange(length), pad),
                jnp.pad(jnp.ones(length, jnp.int32), pad),
            )
        )
    x_prefill, positions, segments = (jnp.stack(field) for field in zip(*rows))
    y_prefill, state = called(layer, params, x_prefill, TokenInfo(positions, segments), state)
    for b, length in enumerate(lengths):
        kept = slice(6 - length, 6) if side == "left" else slice(0, length)
        np.testing.assert_allclose(
            y_prefill[b, kept], whole_BSD[b, :length], **TOLERANCE["float32"]
        )
    for step in range(3):
        at_B = jnp.array(lengths) + step
        x_step = x_BSD[jnp.arange(B), at_B][:, None]
        tokens = TokenInfo.contiguous(B, 1, start=at_B)
        y_step, state = called(layer, params, x_step, tokens, state)
        np.testing.assert_allclose(
            y_step[:, 0], whole_BSD[jnp.arange(B), at_B], **TOLERANCE["float32"]
        )


def test_refused_drafts_are_written_over():
    layer, params = built(small_config())
    whole_BSD, x_BSD = called(layer, params, inputs(), TokenInfo()), inputs()
    state = layer.init_state(batch_size=B, max_length=T)
    _, state = called(layer, params, x_BSD[:, :4], TokenInfo.contiguous(B, 4), state)
    drafts = 5.0 * x_BSD[:, :3]
    _, state = called(layer, params, drafts, TokenInfo.contiguous(B, 3, start=4), state)
    tokens = TokenInfo.contiguous(B, 1, start=4)
    y_step, _ = called(layer, params, x_BSD[:, 4:5], tokens, state)
    np.testing.assert_allclose(y_step, whole_BSD[:, 4:5], **TOLERANCE["float32"])


@pytest.mark.parametrize("stack", [ScannedStack, UnrolledStack])
def test_decodes_inside_a_stack_of_transformer_layers(stack):
    layer_cfg = TransformerLayer.default_config().set(attention=small_config())
    layer_cfg.feed_forward.set(hidden_dim=48)
    cfg = stack.default_config().set(layer=layer_cfg, num_layers=3, input_dim=D)
    layer, params = built(cfg)
    whole_BSD = called(layer, params, inputs(), TokenInfo())
    got_BSD = decoded(layer, params, inputs(), [5, 1, 1, 2])
    np.testing.assert_allclose(got_BSD, whole_BSD, **TOLERANCE["float32"])


def test_tokens_past_the_end_are_dropped():
    layer, params = built(small_config())
    state = layer.init_state(batch_size=B, max_length=4)
    _, full = called(layer, params, inputs()[:, :4], TokenInfo.contiguous(B, 4), state)
    _, after = called(layer, params, inputs()[:, 4:], TokenInfo.contiguous(B, 5, start=4), full)
    jax.tree.map(np.testing.assert_array_equal, after, full)


def test_cache_type_is_its_own():
    cfg = small_config()
    cfg.cache.set(dtype="bfloat16")
    layer, params = built(cfg)
    state = layer.init_state(batch_size=B, max_length=T)
    assert {x.dtype.name for x in jax.tree.leaves(state)} == {"bfloat16", "int32"}
    y_BSD, after = called(layer, params, inputs(), TokenInfo.contiguous(B, S), state)
    assert y_BSD.dtype == jnp.float32
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    whole_BSD = called(layer, params, inputs(), TokenInfo())
    np.testing.assert_allclose(y_BSD, whole_BSD, **TOLERANCE["bfloat16"])


def test_training_neither_reads_nor_updates_state():
    layer, params = built(small_config())
    args = (inputs(), TokenInfo())
    _, collection = functional(layer, params=params, args=args, is_training=True)
    assert collection.state_updates == {}


def test_decoding_without_positions_is_refused():
    layer, params = built(small_config())
    state = layer.init_state(batch_size=B, max_length=T)
    with pytest.raises(ValueError, match="cache: decoding needs the tokens' positions"):
        called(layer, params, inputs(), TokenInfo(), state)


def test_no_cache_reads_its_own_call_only():
    cfg = small_config(cache=NoCache.default_config(), positions=NoPositions.default_config())
    layer, params = built(cfg)
    assert layer.init_state(batch_size=B, max_length=T) == {}
    y_BSD, state = called(layer, params, inputs(), TokenInfo.contiguous(B, S, start=3), {})
    assert state == {}
    np.testing.assert_array_equal(y_BSD, called(layer, params, inputs(), TokenInfo()))
