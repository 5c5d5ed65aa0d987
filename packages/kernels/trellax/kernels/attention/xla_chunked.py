"""Attention a tile at a time, with an online softmax, in plain XLA: one scan over the tiles a mask can see.

Never holds [S, T] scores, forward or backward: the backward pass keeps only each query's log-normaliser and
recomputes scores (FlashAttention-2, 2307.08691, algorithms 1 and 2). Where positions are implicit, tiles that a
causal or window mask hides are not visited, and a tile fits a cache, which makes it the fastest choice on CPU
as well. The program's size, and so its compile time, does not grow with the sequence.

Axes: B batch, S query sequence, T key sequence, K kv heads, G query heads a kv head, H head dim. In functions
of a tile, S and T are those of the tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from trellax.kernels import placement
from trellax.kernels.attention.blocks import block_sizes
from trellax.kernels.attention.call import AttentionCall
from trellax.kernels.attention.xla import cap, group_heads, group_scores
from trellax.kernels.masks import FullMask, Mask

OUTPUT_NAME = "attention_context"
STATISTICS_NAME = "attention_statistics"
"""Names, for remat policies, of what the backward pass needs of the forward loop: its result, and the
logarithms of the softmax's sums."""

LOWEST_MAX = -1e30
"""Start of a row's maximum: finite, so that exp(-inf - maximum) is 0 while no key was seen."""


class _Options(NamedTuple):
    """What is static: the mask, the form of the scores, the tile, the number of keys before padding."""

    mask: Mask
    scale: float
    soft_cap: float | None
    q_size: int
    k_size: int
    num_keys: int


class _Tokens(NamedTuple):
    """What masks and biases read. None as in `AttentionCall`."""

    q_pos_BS: Array | None
    k_pos_BT: Array | None
    q_seg_BS: Array | None
    k_seg_BT: Array | None
    bias: Any


class _Softmax(NamedTuple):
    """A softmax over the keys seen so far: maximum, and sum and weighted values relative to it, float32."""

    max_BKGS: Array
    sum_BKGS: Array
    acc_BKGSH: Array


def refusal(call: AttentionCall) -> str | None:
    if call.dense_bias is not None:
        return "a dense bias holds S·T numbers a head, which it exists to avoid; use a ScoreBias"
    return None


def run(call: AttentionCall) -> Float[Array, "B S N H"]:
    S, (T, K) = call.q_BSNH.shape[1], call.k_BTKH.shape[1:3]
    sizes = block_sizes("xla_chunked", call)
    q_size, k_size = min(sizes["query"], S), min(sizes["key"], T)
    options = _Options(call.mask, call.scale, call.soft_cap, q_size, k_size, T)
    q_BKGSH = _pad(group_heads(call.q_BSNH, K).transpose(0, 2, 3, 1, 4), q_size, axis=3)
    k_BKTH = _pad(call.k_BTKH.transpose(0, 2, 1, 3), k_size, axis=2)
    v_BKTH = _pad(call.v_BTKH.transpose(0, 2, 1, 3), k_size, axis=2)
    q_pos, q_seg = (_pad(x, q_size, axis=1) for x in (call.q_pos_BS, call.q_seg_BS))
    k_pos, k_seg = (_pad(x, k_size, axis=1) for x in (call.k_pos_BT, call.k_seg_BT))
    tokens = _Tokens(q_pos, k_pos, q_seg, k_seg, call.symbolic_bias)
    arrays = jax.tree.leaves(tokens)
    arrays += [q_BKGSH, k_BKTH, v_BKTH]
    qkv = jax.tree.map(lambda x: placement.like_varying(x, *arrays), (q_BKGSH, k_BKTH, v_BKTH))
    o_BKGSH = _attend(options, qkv, tokens)[:, :, :, :S]
    return o_BKGSH.transpose(0, 3, 1, 2, 4).reshape(call.q_BSNH.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(options: _Options, qkv: tuple[Array, Array, Array], tokens: _Tokens) -> Array:
    return _forward(options, qkv, tokens)[0]


def _forward(
    options: _Options, qkv: tuple[Array, Array, Array], tokens: _Tokens
) -> tuple[Array, Any]:
    q_BKGSH, k_BKTH, v_BKTH = qkv

    def step(softmax: _Softmax, tile: tuple[Array, Array]) -> tuple[_Softmax, None]:
        q_start, k_start = tile
        q_tile = _slice(q_BKGSH, q_start, options.q_size, axis=3)
        k_tile, v_tile = (_slice(x, k_start, options.k_size, axis=2) for x in (k_BKTH, v_BKTH))
        scores_BKGST = _tile_scores_fn(options, tokens, q_start, k_start)(q_tile, k_tile)
        before = _Softmax(*(_slice(x, q_start, options.q_size, axis=3) for x in softmax))
        after = _extend_softmax(before, scores_BKGST, v_tile)
        return _Softmax(*(_put(x, y, q_start, axis=3) for x, y in zip(softmax, after))), None

    values = _zeros(q_BKGSH, qkv)
    softmax = _Softmax(values[..., 0] + LOWEST_MAX, values[..., 0], values)
    softmax, _ = jax.lax.scan(step, softmax, _visible_tiles(options, qkv, tokens))
    sum_BKGS = jnp.maximum(softmax.sum_BKGS, jnp.finfo(jnp.float32).tiny)
    o_BKGSH = (softmax.acc_BKGSH / sum_BKGS[..., None]).astype(q_BKGSH.dtype)
    # A remat policy that saves both names spares the backward pass a second run of this loop.
    o_BKGSH = checkpoint_name(o_BKGSH, OUTPUT_NAME)
    log_sum_BKGS = checkpoint_name(softmax.max_BKGS + jnp.log(sum_BKGS), STATISTICS_NAME)
    return o_BKGSH, (qkv, tokens, o_BKGSH, log_sum_BKGS)


def _backward(options: _Options, kept: Any, do_BKGSH: Array) -> tuple[Any, None]:
    qkv, tokens, o_BKGSH, lse_BKGS = kept
    q_BKGSH, k_BKTH, v_BKTH = qkv
    delta_BKGS = (o_BKGSH.astype(jnp.float32) * do_BKGSH.astype(jnp.float32)).sum(axis=-1)

    def step(gradients: Any, tile: tuple[Array, Array]) -> tuple[Any, None]:
        q_start, k_start = tile
        q_tile, *of_rows = (
            _slice(x, q_start, options.q_size, axis=3)
            for x in (q_BKGSH, do_BKGSH, lse_BKGS, delta_BKGS)
        )
        k_tile, v_tile = (_slice(x, k_start, options.k_size, axis=2) for x in (k_BKTH, v_BKTH))
        scores_fn = _tile_scores_fn(options, tokens, q_start, k_start)
        dq, dk, dv = _tile_gradients(scores_fn, (q_tile, k_tile, v_tile), *of_rows)
        dq_all, dk_all, dv_all = gradients
        return (
            _add(dq_all, dq, q_start, axis=3),
            _add(dk_all, dk, k_start, axis=2),
            _add(dv_all, dv, k_start, axis=2),
        ), None

    zeros = tuple(_zeros(x, qkv) for x in qkv)
    gradients, _ = jax.lax.scan(step, zeros, _visible_tiles(options, qkv, tokens))
    return tuple(d.astype(x.dtype) for d, x in zip(gradients, qkv, strict=True)), None


_attend.defvjp(_forward, _backward)


def _visible_tiles(
    options: _Options, qkv: tuple[Array, Array, Array], tokens: _Tokens
) -> tuple[Array, Array]:
    """Starts of the query and key blocks of all tiles in which the mask may let a query see a key."""
    q_first = np.arange(0, qkv[0].shape[3], options.q_size)[:, None]
    k_first = np.arange(0, qkv[1].shape[2], options.k_size)[None, :]
    visible = np.ones((q_first.size, k_first.size), bool)
    if tokens.q_pos_BS is None and options.mask.is_causal:
        visible &= k_first < q_first + options.q_size
    if tokens.q_pos_BS is None and options.mask.window is not None:
        visible &= q_first - (k_first + options.k_size - 1) < options.mask.window
        visible &= k_first - (q_first + options.q_size - 1) < options.mask.window
    q_index, k_index = np.nonzero(visible)
    starts = (q_index * options.q_size, k_index * options.k_size)
    return jnp.asarray(starts[0], jnp.int32), jnp.asarray(starts[1], jnp.int32)


def _tile_scores_fn(
    options: _Options, tokens: _Tokens, q_start: Array, k_start: Array
) -> Callable[[Array, Array], Array]:
    """Returns the function from a tile's queries and keys to their masked float32 scores."""

    def scores(q_BKGSH: Array, k_BKTH: Array) -> Float[Array, "B K G S T"]:
        s_BKGST = jnp.einsum(
            "BKGSH,BKTH->BKGST", q_BKGSH, k_BKTH, preferred_element_type=jnp.float32
        )
        s_BKGST = cap(options.scale * s_BKGST, options.soft_cap)
        bias_BNST, mask_BNST = _tile_rules(options, tokens, q_start, k_start)
        if bias_BNST is not None:
            s_BKGST += group_scores(bias_BNST, k_BKTH.shape[1])
        if mask_BNST is None:
            return s_BKGST
        return jnp.where(group_scores(mask_BNST, k_BKTH.shape[1]), s_BKGST, -jnp.inf)

    return scores


def _tile_rules(
    options: _Options, tokens: _Tokens, q_start: Array, k_start: Array
) -> tuple[Array | None, Array | None]:
    """The tile's dense bias and mask, [#B, #N, S, T]; None where there is none."""
    q_index = q_start + jnp.arange(options.q_size)[None]
    k_index = k_start + jnp.arange(options.k_size)[None]
    q_pos = _slice(tokens.q_pos_BS, q_start, options.q_size, axis=1, default=q_index)
    k_pos = _slice(tokens.k_pos_BT, k_start, options.k_size, axis=1, default=k_index)
    q_seg = _slice(tokens.q_seg_BS, q_start, options.q_size, axis=1)
    k_seg = _slice(tokens.k_seg_BT, k_start, options.k_size, axis=1)
    bias = None if tokens.bias is None else tokens.bias.dense(q_pos, k_pos)
    mask = None
    if options.mask != FullMask():
        mask = options.mask.dense(q_pos, k_pos, q_seg, k_seg)
    if options.num_keys % options.k_size:
        is_key = (k_index < options.num_keys)[:, None, None, :]
        mask = is_key if mask is None else mask & is_key
    return bias, mask


def _extend_softmax(before: _Softmax, s_BKGST: Array, v_BKTH: Array) -> _Softmax:
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
    return _Softmax(
        max_BKGS,
        before.sum_BKGS * decay_BKGS + p_BKGST.sum(axis=-1),
        before.acc_BKGSH * decay_BKGS[..., None] + acc_BKGSH,
    )


def _tile_gradients(
    scores_fn: Callable[[Array, Array], Array],
    qkv: tuple[Array, Array, Array],
    do_BKGSH: Array,
    lse_BKGS: Array,
    delta_BKGS: Array,
) -> tuple[Array, Array, Array]:
    """Gradients of one tile's queries, keys and values (2307.08691, algorithm 2, lines 11-16)."""
    q_BKGSH, k_BKTH, v_BKTH = qkv
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


def _pad(x: Array | None, size: int, *, axis: int) -> Any:
    """Appends zeros up to a multiple of `size`."""
    if x is None or x.shape[axis] % size == 0:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % size)
    return jnp.pad(x, widths)


def _slice(x: Array | None, start: Array, size: int, *, axis: int, default: Any = None) -> Any:
    return default if x is None else jax.lax.dynamic_slice_in_dim(x, start, size, axis=axis)


def _put(whole: Array, part: Array, start: Array, *, axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=axis)


def _add(whole: Array, part: Array, start: Array, *, axis: int) -> Array:
    old = jax.lax.dynamic_slice_in_dim(whole, start, part.shape[axis], axis=axis)
    return _put(whole, old + part.astype(whole.dtype), start, axis=axis)
