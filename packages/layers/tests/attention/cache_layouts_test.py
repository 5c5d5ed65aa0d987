"""Every cache layout says what one forward pass over the whole sequence says, in plain batches and in flat ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.reference import TOLERANCE, built, called, small_config
from trellax.config import ConfigError
from trellax.layers.attention import (
    AlibiPositions,
    ContiguousCache,
    PagedCache,
    RowGroup,
    SlidingCache,
    SlidingWindow,
    TokenInfo,
)
from trellax.layers.base import PagePool, StateAxis
from trellax.layers.stack import ScannedStack, UnrolledStack
from trellax.layers.transformer import TransformerLayer

S, T, D, WINDOW = 9, 16, 32, 3
POOL = PagePool(num_pages=12, page_size=4)

EXACT = {
    "contiguous": (ContiguousCache.default_config(), None),
    "paged": (PagedCache.default_config().set(page_size=4), None),
    "paged window": (PagedCache.default_config().set(page_size=4), WINDOW),
    "sliding": (SlidingCache.default_config().set(window=WINDOW, num_drafts=2), WINDOW),
}
EIGHT_BITS = {
    f"{name} {dtype}": (cfg.clone().set(dtype=dtype), window)
    for name, (cfg, window) in EXACT.items()
    for dtype in ("int8", "float8_e4m3fn")
    if name != "paged window"
}
# Errors of a stored number relative to the largest of its head: half a step of 127, or 2^-4 of itself.
EIGHT_BITS_TOLERANCE = {"int8": 0.03, "float8_e4m3fn": 0.15}


def layer_with(cache: Any, window: int | None, **fields: Any) -> tuple[Any, Any]:
    if window is not None:
        fields["mask"] = SlidingWindow.default_config().set(window=window)
    return built(small_config(cache=cache.clone(), **fields))


def inputs(num_rows: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (num_rows, S, D))


def in_batches(layer: Any, params: Any, x_BSD: jax.Array, chunks: list[int]) -> jax.Array:
    state, done, outputs = layer.init_state(batch_size=len(x_BSD), max_length=T), 0, []
    for length in chunks:
        tokens = TokenInfo.contiguous(len(x_BSD), length, start=done)
        y, state = called(layer, params, x_BSD[:, done : done + length], tokens, state)
        outputs.append(y)
        done += length
    return jnp.concatenate(outputs, axis=1)


class FlatBatches:
    """Runs three sequences as a server would: steps of some single tokens and some chunks of prompts."""

    # Pages in no order, and slots that are not the rows.
    tables = np.array([[3, 7, 1, 0], [9, 2, 11, 0], [5, 4, 8, 0]], np.int32)
    slots = (2, 0, 3)

    def __init__(self, layer: Any, params: Any, x_BSD: jax.Array):
        self.layer, self.params, self.x_BSD = layer, params, x_BSD
        self.state = layer.init_state(batch_size=4, max_length=T, pages=POOL)
        self.done = [0, 0, 0]
        self.outputs = np.zeros(x_BSD.shape, np.float32)

    def step(self, decode: list[int], prefill: dict[int, int], chunk: int) -> None:
        """Computes one token of each sequence in `decode`, and so many of those in `prefill`, padded to `chunk`."""
        rows = [(row, 1, 1) for row in decode] + [(r, n, chunk) for r, n in prefill.items()]
        x, positions, segments = [], [], []
        for row, count, length in rows:
            at = self.done[row]
            pad = length - count
            x.append(
                jnp.pad(self.x_BSD[row, at : at + count], ((0, pad), (0, 0)), constant_values=50.0)
            )
            positions += [*range(at, at + count)] + [0] * pad
            segments += [1] * count + [0] * pad
        groups = [
            RowGroup(
                length, jnp.array([self.slots[r] for r in of]), jnp.array(self.tables[list(of)])
            )
            for length, of in ((1, decode), (chunk, list(prefill)))
            if of
        ]
        tokens = TokenInfo(jnp.array([positions]), jnp.array([segments]), tuple(groups))
        y, self.state = called(
            self.layer, self.params, jnp.concatenate(x)[None], tokens, self.state
        )
        start = 0
        for row, count, length in rows:
            at = self.done[row]
            self.outputs[row, at : at + count] = y[0, start : start + count]
            self.done[row], start = at + count, start + length


def run_flat(layer: Any, params: Any, x_BSD: jax.Array) -> np.ndarray:
    run = FlatBatches(layer, params, x_BSD)
    run.step([], {0: 4}, 4)
    run.step([0], {1: 5, 2: 2}, 6)
    run.step([0, 1], {2: 6}, 6)
    while run.done != [S, S, S]:
        run.step([r for r in range(3) if run.done[r] < S], {}, 1)
    return run.outputs


# ---- parity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [[9], [4, 1, 1, 3], [1] * 9], ids=str)
@pytest.mark.parametrize("layout", EXACT)
def test_a_plain_batch_equals_the_whole(layout, chunks):
    layer, params = layer_with(*EXACT[layout])
    whole = called(layer, params, inputs(), TokenInfo())
    got = in_batches(layer, params, inputs(), chunks)
    np.testing.assert_allclose(got, whole, **TOLERANCE["float32"])


@pytest.mark.parametrize("layout", EXACT)
def test_a_flat_batch_of_prompts_and_single_tokens_equals_the_whole(layout):
    layer, params = layer_with(*EXACT[layout])
    whole = called(layer, params, inputs(3), TokenInfo())
    np.testing.assert_allclose(run_flat(layer, params, inputs(3)), whole, **TOLERANCE["float32"])


@pytest.mark.parametrize("layout", ["contiguous", "paged"])
def test_biases_go_by_positions_in_every_layout(layout):
    layer, params = layer_with(*EXACT[layout], positions=AlibiPositions.default_config())
    whole = called(layer, params, inputs(3), TokenInfo())
    np.testing.assert_allclose(run_flat(layer, params, inputs(3)), whole, **TOLERANCE["float32"])


@pytest.mark.parametrize("layout", EIGHT_BITS)
def test_eight_bits_are_close_to_the_whole(layout):
    layer, params = layer_with(*EIGHT_BITS[layout])
    whole = np.asarray(called(layer, params, inputs(3), TokenInfo()))
    got = run_flat(layer, params, inputs(3))
    error = np.abs(got - whole).max() / np.abs(whole).max()
    assert 1e-4 < error < EIGHT_BITS_TOLERANCE[layout.split()[1]], "and it did store eight bits"


@pytest.mark.parametrize("layout", EXACT)
def test_a_slot_that_is_used_again_shows_nothing_of_before(layout):
    layer, params = layer_with(*EXACT[layout])
    whole = called(layer, params, inputs(3), TokenInfo())
    run = FlatBatches(layer, params, 7.0 * jax.random.normal(jax.random.key(5), (3, S, D)))
    run.step([], {0: 9, 1: 9, 2: 9}, 9)
    run.x_BSD, run.done = inputs(3), [0, 0, 0]
    run.step([], {0: 4, 1: 2, 2: 9}, 9)
    while run.done != [S, S, S]:
        run.step([r for r in range(3) if run.done[r] < S], {}, 1)
    np.testing.assert_allclose(run.outputs, whole, **TOLERANCE["float32"])


@pytest.mark.parametrize("layout", EXACT)
def test_drafts_that_were_refused_are_written_over(layout):
    layer, params = layer_with(*EXACT[layout])
    whole = called(layer, params, inputs(3), TokenInfo())
    run = FlatBatches(layer, params, inputs(3))
    run.step([], {0: 5, 1: 5, 2: 5}, 5)
    good, run.x_BSD = run.x_BSD, 5.0 * run.x_BSD
    run.step([], {0: 2, 1: 2, 2: 2}, 2)
    run.x_BSD, run.done = good, [5, 5, 5]
    while run.done != [S, S, S]:
        run.step([0, 1, 2], {}, 1)
    np.testing.assert_allclose(run.outputs, whole, **TOLERANCE["float32"])


# ---- structure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [ScannedStack, UnrolledStack])
@pytest.mark.parametrize("layout", EXACT)
def test_layouts_work_in_stacks_and_say_whose_their_entries_are(layout, stack):
    cache, window = EXACT[layout]
    attention = small_config(cache=cache.clone())
    if window is not None:
        attention.mask = SlidingWindow.default_config().set(window=window)
    layer_cfg = TransformerLayer.default_config().set(attention=attention)
    layer_cfg.feed_forward.set(hidden_dim=48)
    layer, params = built(stack.default_config().set(layer=layer_cfg, num_layers=2, input_dim=D))
    whole = called(layer, params, inputs(3), TokenInfo())
    run = run_flat(layer, layer.unstacked(params), inputs(3))
    np.testing.assert_allclose(run, whole, **TOLERANCE["float32"])
    state = layer.init_state(batch_size=4, max_length=T, pages=POOL)
    sizes = {"page": POOL.num_pages, "slot": 4}
    is_axis = lambda x: isinstance(x, StateAxis)
    jax.tree.map(
        lambda axis, x: np.testing.assert_equal(x.shape[axis.axis], sizes[axis.kind]),
        layer.state_axes(),
        state,
        is_leaf=is_axis,
    )


def test_a_ring_is_no_longer_than_it_must_be():
    layer, _ = layer_with(*EXACT["sliding"])
    state = layer.init_state(batch_size=1, max_length=1000)
    assert state["cache"]["key"].shape[1] == WINDOW + 2


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (PagedCache.default_config().set(page_size=0), "page_size=0 must be at least 1"),
        (SlidingCache.default_config().set(window=0), "window=0 must be at least 1"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(cache, message):
    with pytest.raises(ConfigError, match=message):
        small_config(cache=cache).instantiate(name="attention")
