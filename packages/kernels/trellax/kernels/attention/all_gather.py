"""Attention with gathered keys: each device keeps its queries and sees the keys and values of the whole row.

    out_BSNH = all_gather_attention(q_BSNH, k_BSKH, v_BSKH, axis="seq", mask=CausalMask())      # inside jax.shard_map

One collective a pass, which costs little where keys have few heads (the context parallelism of Llama 3, 2407.21783,
section 3.3.2); keys and values of the row are held while they are used, and gathered again for the backward pass. Where
the mask is causal, devices exchange half their queries first (`zigzag`), so that each visits equally many tiles; on TPU
the splash kernel does so, too.

Axes: B batch, S tokens of a device, T tokens of the row, N heads, K kv heads, G query heads a kv head, H head dim, P tiles.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from trellax.kernels import dispatch
from trellax.kernels.attention import blockwise, splash
from trellax.kernels.attention.api import CHUNKED, IMPLEMENTATIONS, SPLASH, attention
from trellax.kernels.attention.bias import ScoreBias
from trellax.kernels.attention.blocks import dividing_block_sizes
from trellax.kernels.attention.blockwise import QKV, Form, Tiles, Tokens
from trellax.kernels.attention.call import AttentionCall, make_call
from trellax.kernels.attention.xla import group_heads
from trellax.kernels.attention.zigzag import (
    Axis,
    check_length,
    chunk_positions,
    from_zigzag,
    to_zigzag,
)
from trellax.kernels.masks import FullMask, Mask


class _Gather(NamedTuple):
    """What is static."""

    axis: Axis
    form: Form


def all_gather_attention(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    *,
    axis: Axis,
    mask: Mask | None = None,
    segments: Int[Array, "#B S"] | None = None,
    bias: ScoreBias | Float[Array, "#B #N S T"] | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    implementation: dispatch.Requested = None,
) -> Float[Array, "B S N H"]:
    """Computes self-attention of rows that lie, in order, over the devices of `axis`.

    Args:
        query: this device's queries, as for `attention`.
        key: its keys.
        value: its values.
        axis: mesh axes that the row is split over.
        mask: what each query may attend to, by places in the whole row.
        segments: documents of this device's tokens, 0 for padding.
        bias: a rule on positions; or an array of this device's queries and all keys.
        scale: factor of the scores; None for H^-0.5.
        soft_cap: c in c·tanh(score / c), or None.
        implementation: as for `attention`; causal masks without a dense bias are served by "splash" and "xla_chunked".

    Raises:
        ValueError: the mask is causal and the device's tokens are not an even number.
        UnsupportedError: no requested implementation supports the call.
    """
    options: dict[str, Any] = {"mask": mask, "bias": bias, "scale": scale, "soft_cap": soft_cap}
    call = make_call(query, key, value, query_segments=segments, key_segments=segments, **options)
    if not call.mask.is_causal or call.dense_bias is not None:
        return _with_whole_keys(call, axis, options | {"implementation": implementation})
    check_length(query.shape[1], jax.lax.axis_size(axis))
    candidates = _balanced_implementations(axis)
    choice = dispatch.choose("attention", candidates, requested=implementation, call=call)
    return choice.implementation.run(call)


def _balanced_implementations(axis: Axis) -> list[dispatch.Implementation]:
    """What serves causal attention of a device's own tokens, best first, and why the other kernels do not."""
    run = {
        "splash": functools.partial(_by_splash, axis=axis),
        "xla_chunked": functools.partial(_tiled, axis=axis),
    }
    no = lambda _: "needs queries in one piece; UlyssesContext runs any kernel"
    able = [dispatch.Implementation(i.name, run[i.name], i.refusal) for i in (SPLASH, CHUNKED)]
    others = [i for i in IMPLEMENTATIONS if i.name not in run]
    return able + [dispatch.Implementation(i.name, i.run, no) for i in others]


def _with_whole_keys(call: AttentionCall, axis: Axis, options: dict[str, Any]) -> Array:
    """Attention of one part of the queries, in order, by any kernel."""
    gather = functools.partial(jax.lax.all_gather, axis_name=axis, axis=1, tiled=True)
    if call.segments_matter:
        segments = {"query_segments": call.q_seg_BS, "key_segments": gather(call.k_seg_BT)}
        options = options | segments
    (_, S), n = call.q_BSNH.shape[:2], jax.lax.axis_size(axis)
    if call.bias is not None or call.mask != FullMask():
        first = jax.lax.axis_index(axis) * S
        places = {"query_positions": (first + jnp.arange(S))[None]}
        options = options | places | {"key_positions": jnp.arange(S * n)[None]}
    return attention(call.q_BSNH, gather(call.k_BTKH), gather(call.v_BTKH), **options)


def _by_splash(call: AttentionCall, *, axis: Axis) -> Array:
    """Keeps a device's own tokens and results for the backward pass, which gathers again."""
    S, n = call.q_BSNH.shape[1], jax.lax.axis_size(axis)
    gather = functools.partial(jax.lax.all_gather, axis_name=axis, axis=1, tiled=True)

    def attend(q: Array, k: Array, v: Array, q_seg: Array | None, k_seg: Array | None) -> Array:
        fields = {"q_BSNH": q, "k_BTKH": gather(k), "v_BTKH": gather(v)}
        part = dataclasses.replace(call, **fields, q_seg_BS=q_seg, k_seg_BT=k_seg)
        return splash.run_part(part, chunk_positions(n, S), jax.lax.axis_index(axis))

    q_seg = k_seg = None
    if call.segments_matter:
        assert call.q_seg_BS is not None
        q_seg, k_seg = to_zigzag(call.q_seg_BS, axis=axis, dim=1), gather(call.q_seg_BS)
    kept = jax.checkpoint_policies.save_only_these_names(blockwise.STATISTICS_NAME)
    q_BSNH = to_zigzag(call.q_BSNH, axis=axis, dim=1)
    o_BSNH = jax.checkpoint(attend, policy=kept)(q_BSNH, call.k_BTKH, call.v_BTKH, q_seg, k_seg)
    return from_zigzag(o_BSNH, axis=axis, dim=1)


def _tiled(call: AttentionCall, *, axis: Axis) -> Array:
    S, K = call.q_BSNH.shape[1], call.k_BTKH.shape[2]
    n = jax.lax.axis_size(axis)
    sizes = dividing_block_sizes("xla_chunked", call, S // 2)
    form = Form(call.mask, call.scale, call.soft_cap, sizes["query"], sizes["key"], S * n)
    q_BSNH = to_zigzag(call.q_BSNH, axis=axis, dim=1)
    q_seg = k_seg = None
    if call.segments_matter:
        assert call.q_seg_BS is not None
        q_seg = to_zigzag(call.q_seg_BS, axis=axis, dim=1)
        k_seg = jax.lax.all_gather(call.q_seg_BS, axis, axis=1, tiled=True)
    here = jax.lax.axis_index(axis)
    q_pos = jnp.take(jnp.asarray(chunk_positions(n, S)), here, axis=0)[None]
    qkv = (
        group_heads(q_BSNH, K).transpose(0, 2, 3, 1, 4),
        call.k_BTKH.transpose(0, 2, 1, 3),
        call.v_BTKH.transpose(0, 2, 1, 3),
    )
    tokens = Tokens(q_pos, None, q_seg, k_seg, call.symbolic_bias)
    o_BKGSH = _attend(_Gather(axis, form), qkv, tokens)
    o_BSNH = o_BKGSH.transpose(0, 3, 1, 2, 4).reshape(call.q_BSNH.shape)
    return from_zigzag(o_BSNH, axis=axis, dim=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(gather: _Gather, qkv: QKV, tokens: Tokens) -> Array:
    return _forward(gather, qkv, tokens)[0]


def _forward(gather: _Gather, qkv: QKV, tokens: Tokens) -> tuple[Array, Any]:
    whole = _gathered(gather, qkv)
    start = blockwise.empty_softmax(whole)
    softmax = blockwise.attend(gather.form, start, whole, tokens, _tiles(gather, qkv))
    o_BKGSH, lse_BKGS = blockwise.normalized(softmax, qkv[0].dtype)
    return o_BKGSH, (qkv, tokens, o_BKGSH, lse_BKGS)


def _backward(gather: _Gather, kept: Any, do_BKGSH: Array) -> tuple[QKV, None]:
    qkv, tokens, o_BKGSH, lse_BKGS = kept
    whole, of_rows = _gathered(gather, qkv), blockwise.rows(o_BKGSH, do_BKGSH, lse_BKGS)
    dq, *gradients = blockwise.add_gradients(
        gather.form,
        blockwise.zero_gradients(whole),
        whole,
        tokens,
        _tiles(gather, qkv),
        of_rows,
    )
    scatter = functools.partial(
        jax.lax.psum_scatter, axis_name=gather.axis, scatter_dimension=2, tiled=True
    )
    return blockwise.cast((dq, *map(scatter, gradients)), qkv), None


_attend.defvjp(_forward, _backward)


def _gathered(gather: _Gather, qkv: QKV) -> QKV:
    query, key, value = qkv
    whole = functools.partial(jax.lax.all_gather, axis_name=gather.axis, axis=2, tiled=True)
    return query, whole(key), whole(value)


def _tiles(gather: _Gather, qkv: QKV) -> Tiles:
    """This device's tiles. Lists are as long as the longest, filled up with a tile that the mask hides on all devices:
    the first queries with the last keys."""
    n, length, form = jax.lax.axis_size(gather.axis), qkv[0].shape[3], gather.form
    lists = [
        blockwise.visible_tiles(form, positions, np.arange(n * length))
        for positions in chunk_positions(n, length)
    ]
    hidden = np.array([[0], [n * length - form.k_size]], np.int32)
    longest = max(tiles.shape[1] for tiles in lists)
    table: Int[np.ndarray, "n 2 P"] = np.stack(
        [np.append(t, np.repeat(hidden, longest - t.shape[1], 1), 1) for t in lists]
    )
    return blockwise.as_tiles(jnp.take(jnp.asarray(table), jax.lax.axis_index(gather.axis), axis=0))
