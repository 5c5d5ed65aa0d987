"""Attention of blocks of queries and keys, a tile at a time, with an online softmax: what every tiled method is made of.

    softmax = attend(form, empty_softmax(*qkv), qkv, tokens, tiles)       # and again with the keys of another block
    o_BKGSH, lse_BKGS = normalized(softmax, q_BKGSH.dtype)

Never holds [S, T] scores, forward or backward: the backward pass is given each query's log-normaliser and
recomputes scores (FlashAttention-2, 2307.08691, algorithms 1 and 2). Both passes are one scan over a list of tiles,
which may be data: it may differ from device to device and from step to step of a loop.

Axes: B batch, S query sequence, T key sequence, K kv heads, G query heads a kv head, H head dim. In functions
of a tile, S and T are those of the tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from trellax.kernels import placement
from trellax.kernels.attention.xla import cap, group_scores
from trellax.kernels.masks import FullMask, Mask

OUTPUT_NAME = "attention_context"
STATISTICS_NAME = "attention_statistics"
"""Names, for remat policies, of what the backward pass needs of the forward loop: its result, and the
logarithms of the softmax's sums."""

LOWEST_MAX = -1e30
"""Start of a row's maximum: finite, so that exp(-inf - maximum) is 0 while no key was seen."""

QKV = tuple[Float[Array, "B K G S H"], Float[Array, "B K T H"], Float[Array, "B K T H"]]
"""Queries, keys and values of a block; or their gradients."""

Tiles = tuple[Int[Array, " P"], Int[Array, " P"]]
"""First query and first key of each tile, as indices into the block."""


class Form(NamedTuple):
    """What is static: the mask, the form of the scores, the tile, the number of keys before padding."""

    mask: Mask
    scale: float
    soft_cap: float | None
    q_size: int
    k_size: int
    num_keys: int


class Tokens(NamedTuple):
    """What masks and biases read. Positions of None are indices into the block; the rest as in `AttentionCall`."""

    q_pos_BS: Array | None
    k_pos_BT: Array | None
    q_seg_BS: Array | None
    k_seg_BT: Array | None
    bias: Any


class Softmax(NamedTuple):
    """A softmax over the keys seen so far: maximum, and sum and weighted values relative to it, float32."""

    max_BKGS: Array
    sum_BKGS: Array
    acc_BKGSH: Array


class Rows(NamedTuple):
    """What the backward pass knows of each query: its output's gradient, log-normaliser, and their product."""

    do_BKGSH: Array
    lse_BKGS: Array
    delta_BKGS: Array


def empty_softmax(qkv: QKV) -> Softmax:
    """Returns the softmax of the queries over no key."""
    values = _zeros(qkv[0], qkv)
    return Softmax(values[..., 0] + LOWEST_MAX, values[..., 0], values)


def attend(form: Form, softmax: Softmax, qkv: QKV, tokens: Tokens, tiles: Tiles) -> Softmax:
    """Takes the keys of a block into the softmax, where `tiles` say so and the mask allows it."""
    q_BKGSH, k_BKTH, v_BKTH = qkv

    def step(softmax: Softmax, tile: tuple[Array, Array]) -> tuple[Softmax, None]:
        q_start, k_start = tile
        q_tile = _slice(q_BKGSH, q_start, form.q_size, axis=3)
        k_tile, v_tile = (_slice(x, k_start, form.k_size, axis=2) for x in (k_BKTH, v_BKTH))
        scores_BKGST = _tile_scores_fn(form, tokens, q_start, k_start)(q_tile, k_tile)
        before = Softmax(*(_slice(x, q_start, form.q_size, axis=3) for x in softmax))
        after = _extend_softmax(before, scores_BKGST, v_tile)
        return Softmax(*(_put(x, y, q_start, axis=3) for x, y in zip(softmax, after))), None

    return jax.lax.scan(step, softmax, tiles)[0]


def normalized(softmax: Softmax, dtype: Any) -> tuple[Array, Array]:
    """Returns what the queries read, [B, K, G, S, H], and their log-normalisers, float32 [B, K, G, S].

    Both are named: a remat policy that saves both names spares the backward pass a second run of the forward loop.
    """
    sum_BKGS = jnp.maximum(softmax.sum_BKGS, jnp.finfo(jnp.float32).tiny)
    o_BKGSH = (softmax.acc_BKGSH / sum_BKGS[..., None]).astype(dtype)
    o_BKGSH = checkpoint_name(o_BKGSH, OUTPUT_NAME)
    return o_BKGSH, checkpoint_name(softmax.max_BKGS + jnp.log(sum_BKGS), STATISTICS_NAME)


def rows(o_BKGSH: Array, do_BKGSH: Array, lse_BKGS: Array) -> Rows:
    """Returns what the backward pass needs of each query."""
    delta_BKGS = (o_BKGSH.astype(jnp.float32) * do_BKGSH.astype(jnp.float32)).sum(axis=-1)
    return Rows(do_BKGSH, lse_BKGS, delta_BKGS)


def zero_gradients(qkv: QKV) -> QKV:
    """Returns float32 sums for `add_gradients` to start from."""
    q, k, v = (_zeros(x, qkv) for x in qkv)
    return q, k, v


def add_gradients(
    form: Form, gradients: QKV, qkv: QKV, tokens: Tokens, tiles: Tiles, of_rows: Rows
) -> QKV:
    """Adds what a block contributes to the gradients of its queries, keys and values."""
    q_BKGSH, k_BKTH, v_BKTH = qkv

    def step(gradients: Any, tile: tuple[Array, Array]) -> tuple[Any, None]:
        q_start, k_start = tile
        q_tile = _slice(q_BKGSH, q_start, form.q_size, axis=3)
        rows_tile = Rows(*(_slice(x, q_start, form.q_size, axis=3) for x in of_rows))
        k_tile, v_tile = (_slice(x, k_start, form.k_size, axis=2) for x in (k_BKTH, v_BKTH))
        scores_fn = _tile_scores_fn(form, tokens, q_start, k_start)
        dq, dk, dv = _tile_gradients(scores_fn, (q_tile, k_tile, v_tile), rows_tile)
        dq_all, dk_all, dv_all = gradients
        return (
            _add(dq_all, dq, q_start, axis=3),
            _add(dk_all, dk, k_start, axis=2),
            _add(dv_all, dv, k_start, axis=2),
        ), None

    return jax.lax.scan(step, gradients, tiles)[0]


def cast(gradients: QKV, qkv: QKV) -> QKV:
    """Returns gradients in the types of what they are of."""
    dq, dk, dv = (d.astype(x.dtype) for d, x in zip(gradients, qkv, strict=True))
    return dq, dk, dv


def visible_tiles(form: Form, q_pos_S: np.ndarray, k_pos_T: np.ndarray) -> np.ndarray:
    """Returns the tiles in which the mask may let a query see a key, int32 [2, P]: first queries, first keys.

    Args:
        form: mask and tile.
        q_pos_S: positions of the block's queries, growing within a tile.
        k_pos_T: positions of its keys.
    """
    q_first, q_last = q_pos_S[:: form.q_size, None], q_pos_S[form.q_size - 1 :: form.q_size, None]
    k_first, k_last = k_pos_T[None, :: form.k_size], k_pos_T[None, form.k_size - 1 :: form.k_size]
    visible = np.ones((q_first.shape[0], k_first.shape[1]), bool)
    if form.mask.is_causal:
        visible &= k_first <= q_last
    if form.mask.window is not None:
        visible &= q_first - k_last < form.mask.window
        visible &= k_first - q_last < form.mask.window
    q_index, k_index = np.nonzero(visible)
    return np.stack([q_index * form.q_size, k_index * form.k_size]).astype(np.int32)


def as_tiles(starts: Any) -> Tiles:
    """Returns a list of tiles, [2, P], as `attend` takes it."""
    starts = jnp.asarray(starts)
    return starts[0], starts[1]


def _tile_scores_fn(
    form: Form, tokens: Tokens, q_start: Array, k_start: Array
) -> Callable[[Array, Array], Array]:
    """Returns the function from a tile's queries and keys to their masked float32 scores."""

    def scores(q_BKGSH: Array, k_BKTH: Array) -> Float[Array, "B K G S T"]:
        s_BKGST = jnp.einsum(
            "BKGSH,BKTH->BKGST", q_BKGSH, k_BKTH, preferred_element_type=jnp.float32
        )
        s_BKGST = cap(form.scale * s_BKGST, form.soft_cap)
        bias_BNST, mask_BNST = _tile_rules(form, tokens, q_start, k_start)
        if bias_BNST is not None:
            s_BKGST += group_scores(bias_BNST, k_BKTH.shape[1])
        if mask_BNST is None:
            return s_BKGST
        return jnp.where(group_scores(mask_BNST, k_BKTH.shape[1]), s_BKGST, -jnp.inf)

    return scores


def _tile_rules(
    form: Form, tokens: Tokens, q_start: Array, k_start: Array
) -> tuple[Array | None, Array | None]:
    """The tile's dense bias and mask, [#B, #N, S, T]; None where there is none."""
    q_index = q_start + jnp.arange(form.q_size)[None]
    k_index = k_start + jnp.arange(form.k_size)[None]
    q_pos = _slice(tokens.q_pos_BS, q_start, form.q_size, axis=1, default=q_index)
    k_pos = _slice(tokens.k_pos_BT, k_start, form.k_size, axis=1, default=k_index)
    q_seg = _slice(tokens.q_seg_BS, q_start, form.q_size, axis=1)
    k_seg = _slice(tokens.k_seg_BT, k_start, form.k_size, axis=1)
    bias = None if tokens.bias is None else tokens.bias.dense(q_pos, k_pos)
    mask = None
    if form.mask != FullMask():
        mask = form.mask.dense(q_pos, k_pos, q_seg, k_seg)
    if form.num_keys % form.k_size:
        is_key = (k_index < form.num_keys)[:, None, None, :]
        mask = is_key if mask is None else mask & is_key
    return bias, mask


def _extend_softmax(before: Softmax, s_BKGST: Array, v_BKTH: Array) -> Softmax:
    """Takes the keys of one more tile into the softmax (2307.08691, algorithm 1, lines 8-10)."""
    max_BKGS = jnp.maximum(before.max_BKGS, s_BKGST.max(axis=-1))
    p_BKGST = jnp.exp(s_BKGST - max_BKGS[..., None])
    acc_BKGSH = jnp.einsum(
        "BKGST,BKTH->BKGSH",
        p_BKGST.astype(v_BKTH.dtype),
        v_BKTH,
        preferred_element_type=jnp.float32,
    )
    decay_BKGS = jnp.exp(before.max_BKGS - max_BKGS)
    return Softmax(
        max_BKGS,
        before.sum_BKGS * decay_BKGS + p_BKGST.sum(axis=-1),
        before.acc_BKGSH * decay_BKGS[..., None] + acc_BKGSH,
    )


def _tile_gradients(
    scores_fn: Callable[[Array, Array], Array],
    qkv: QKV,
    of_rows: Rows,
) -> QKV:
    """Gradients of one tile's queries, keys and values (2307.08691, algorithm 2, lines 11-16)."""
    q_BKGSH, k_BKTH, v_BKTH = qkv
    do_BKGSH, lse_BKGS, delta_BKGS = of_rows
    s_BKGST, scores_vjp = jax.vjp(scores_fn, q_BKGSH, k_BKTH)
    p_BKGST = jnp.exp(s_BKGST - lse_BKGS[..., None])
    dv_BKTH = jnp.einsum(
        "BKGST,BKGSH->BKTH",
        p_BKGST.astype(v_BKTH.dtype),
        do_BKGSH,
        preferred_element_type=jnp.float32,
    )
    dp_BKGST = jnp.einsum("BKGSH,BKTH->BKGST", do_BKGSH, v_BKTH, preferred_element_type=jnp.float32)
    dq_BKGSH, dk_BKTH = scores_vjp(p_BKGST * (dp_BKGST - delta_BKGS[..., None]))
    return dq_BKGSH, dk_BKTH, dv_BKTH


def _zeros(like: Array, others: tuple[Array, ...]) -> Array:
    """A float32 sum to start from, sharded as `like`."""
    return placement.like_varying(jnp.zeros_like(like, jnp.float32), *others)


def _slice(x: Array | None, start: Array, size: int, *, axis: int, default: Any = None) -> Any:
    return default if x is None else jax.lax.dynamic_slice_in_dim(x, start, size, axis=axis)


def _put(whole: Array, part: Array, start: Array, *, axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=axis)


def _add(whole: Array, part: Array, start: Array, *, axis: int) -> Array:
    old = jax.lax.dynamic_slice_in_dim(whole, start, part.shape[axis], axis=axis)
    return _put(whole, old + part.astype(whole.dtype), start, axis=axis)
