"""Ring attention: each device keeps its queries, keys and values travel around (2310.01889).

    out_BSNH = ring_attention(q_BSNH, k_BSKH, v_BSKH, axis="seq", mask=CausalMask())      # inside jax.shard_map

Memory a device holds is that of its own tokens, forward and backward: gradients of keys and values travel with them and are
home after a full turn. Where the mask is causal, devices exchange half their tokens first (`zigzag`), so that every step
of every device computes exactly two pairs of whole chunks: its late queries with the visitors' early keys, which they
always see; and whichever of (early, early) and (late, late) lies in the past. Which one is data, not control flow.

Axes: B batch, S tokens of a device, N heads, K kv heads, G query heads a kv head, H head dim, P tiles.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from trellax.kernels import dispatch
from trellax.kernels.attention import blockwise
from trellax.kernels.attention.bias import ScoreBias
from trellax.kernels.attention.blocks import dividing_block_sizes
from trellax.kernels.attention.blockwise import QKV, Form, Softmax, Tiles, Tokens
from trellax.kernels.attention.call import AttentionCall, make_call
from trellax.kernels.attention.xla import group_heads
from trellax.kernels.attention.zigzag import (
    Axis,
    check_length,
    chunk_positions,
    from_zigzag,
    to_zigzag,
)
from trellax.kernels.masks import CausalMask, FullMask, Mask


class _Ring(NamedTuple):
    """What is static."""

    axis: Axis
    form: Form
    is_balanced: bool


def ring_attention(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    *,
    axis: Axis,
    mask: Mask | None = None,
    segments: Int[Array, "#B S"] | None = None,
    bias: ScoreBias | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    implementation: dispatch.Requested = None,
) -> Float[Array, "B S N H"]:
    """Computes self-attention of rows that lie, in order, over the devices of `axis`.

    Args:
        query: this device's queries, as for `attention`.
        key: its keys.
        value: its values.
        axis: mesh axes of the ring.
        mask: what each query may attend to, by places in the whole row.
        segments: documents of this device's tokens, 0 for padding.
        bias: a rule on positions.
        scale: factor of the scores; None for H^-0.5.
        soft_cap: c in c·tanh(score / c), or None.
        implementation: None; or names that must hold "xla_chunked", whose tiles these are.

    Raises:
        ValueError: the mask is causal and the device's tokens are not an even number; or a bias is dense.
        UnsupportedError: other kernels are demanded.
    """
    _check_implementation(implementation)
    options: dict[str, Any] = {"mask": mask, "bias": bias, "scale": scale, "soft_cap": soft_cap}
    call = make_call(query, key, value, query_segments=segments, key_segments=segments, **options)
    if call.dense_bias is not None:
        raise ValueError(
            "ring_attention: a dense bias has S·T numbers a head, and no device holds all of a row; "
            "use a ScoreBias, or AllGatherContext."
        )
    ring = _Ring(axis, _form(call), call.mask.is_causal)
    exchange: Any = lambda x, *_, **__: x
    back = exchange
    if ring.is_balanced:
        check_length(query.shape[1], jax.lax.axis_size(axis))
        exchange, back = to_zigzag, from_zigzag
    q, k, v = (exchange(x, axis=axis, dim=1) for x in (query, key, value))
    seg_BS = exchange(segments, axis=axis, dim=1) if call.segments_matter else None
    qkv = (
        group_heads(q, key.shape[2]).transpose(0, 2, 3, 1, 4),
        k.transpose(0, 2, 1, 3),
        v.transpose(0, 2, 1, 3),
    )
    position_S = _positions(ring, query.shape[1], jax.lax.axis_index(axis))
    o_BKGSH = _attend(ring, qkv, Tokens(position_S, position_S, seg_BS, seg_BS, bias))
    return back(o_BKGSH.transpose(0, 3, 1, 2, 4).reshape(query.shape), axis=axis, dim=1)


def _check_implementation(implementation: dispatch.Requested) -> None:
    """Raises if other kernels are demanded than the tiles that these are.

    Raises:
        UnsupportedError: "xla_chunked" is not among those requested.
    """
    names = (implementation,) if isinstance(implementation, str) else implementation
    if names is not None and "xla_chunked" not in names:
        reason = "a ring computes its tiles itself, as xla_chunked; UlyssesContext runs any kernel"
        raise dispatch.UnsupportedError(
            "attention", [dispatch.Refusal(str(name), reason) for name in names]
        )


def _form(call: AttentionCall) -> Form:
    """Tiles must not lie across two chunks, so their sizes divide a chunk's length."""
    length = call.q_BSNH.shape[1]
    chunk = length // 2 if call.mask.is_causal else length
    sizes = dividing_block_sizes("xla_chunked", call, chunk)
    return Form(call.mask, call.scale, call.soft_cap, sizes["query"], sizes["key"], length)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(ring: _Ring, qkv: QKV, tokens: Tokens) -> Array:
    return _forward(ring, qkv, tokens)[0]


def _forward(ring: _Ring, qkv: QKV, tokens: Tokens) -> tuple[Array, Any]:
    query, *own = qkv

    def step(carry: Any, distance: Array) -> tuple[Any, None]:
        softmax, visitor = carry
        coming = _rotate(ring, visitor)  # Independent of what follows, so that it may overlap.
        key, value, k_seg = visitor
        met = _meet(ring, tokens, k_seg, distance)
        return (_extend(ring, softmax, (query, key, value), *met), coming), None

    softmax = blockwise.attend(
        ring.form, blockwise.empty_softmax(qkv), qkv, tokens, _own_tiles(ring, qkv)
    )
    carry = (softmax, _rotate(ring, (*own, tokens.k_seg_BT)))
    (softmax, _), _ = jax.lax.scan(step, carry, _distances(ring))
    o_BKGSH, lse_BKGS = blockwise.normalized(softmax, query.dtype)
    return o_BKGSH, (qkv, tokens, o_BKGSH, lse_BKGS)


def _backward(ring: _Ring, kept: Any, do_BKGSH: Array) -> tuple[QKV, None]:
    qkv, tokens, o_BKGSH, lse_BKGS = kept
    query, *own = qkv
    of_rows = blockwise.rows(o_BKGSH, do_BKGSH, lse_BKGS)

    def step(carry: Any, distance: Array) -> tuple[Any, None]:
        dq, gradients, visitor = carry
        coming = _rotate(ring, visitor)
        key, value, k_seg = visitor
        met, tiles = _meet(ring, tokens, k_seg, distance)
        dq, *gradients = blockwise.add_gradients(
            _met_form(ring), (dq, *gradients), (query, key, value), met, tiles, of_rows
        )
        return (dq, _rotate(ring, tuple(gradients)), coming), None

    dq, *own_gradients = blockwise.add_gradients(
        ring.form, blockwise.zero_gradients(qkv), qkv, tokens, _own_tiles(ring, qkv), of_rows
    )
    carry = (dq, _rotate(ring, tuple(own_gradients)), _rotate(ring, (*own, tokens.k_seg_BT)))
    (dq, (dk, dv), _), _ = jax.lax.scan(step, carry, _distances(ring))
    return blockwise.cast((dq, dk, dv), qkv), None


_attend.defvjp(_forward, _backward)


def _extend(ring: _Ring, softmax: Softmax, qkv: QKV, met: Tokens, tiles: Tiles) -> Softmax:
    return blockwise.attend(_met_form(ring), softmax, qkv, met, tiles)


def _rotate(ring: _Ring, tree: Any) -> Any:
    """Sends arrays to the next device of the ring."""
    n = jax.lax.axis_size(ring.axis)
    pairs = [(device, (device + 1) % n) for device in range(n)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, ring.axis, pairs), tree)


def _distances(ring: _Ring) -> Array:
    """How many devices away a step's visitors come from."""
    return jnp.arange(1, jax.lax.axis_size(ring.axis), dtype=jnp.int32)


def _positions(ring: _Ring, length: int, device: Array) -> Int[Array, "1 S"]:
    """Places in the row of a device's tokens."""
    n = jax.lax.axis_size(ring.axis)
    if ring.is_balanced:
        return jnp.take(jnp.asarray(chunk_positions(n, length)), device, axis=0)[None]
    return (device * length + jnp.arange(length, dtype=jnp.int32))[None]


def _own_tiles(ring: _Ring, qkv: QKV) -> Tiles:
    """Tiles of a device's queries with its own keys: both in the order of the row, so indices will do for places.

    For a window that is cautious, as the late chunk is further away than its index says; the mask itself is exact.
    """
    index_S = np.arange(qkv[0].shape[3])
    return blockwise.as_tiles(blockwise.visible_tiles(ring.form, index_S, index_S))


def _meet(
    ring: _Ring, tokens: Tokens, k_seg: Array | None, distance: Array
) -> tuple[Tokens, Tiles]:
    """Returns what masks read, and the tiles to compute, when keys from `distance` devices before visit."""
    assert tokens.q_pos_BS is not None
    length, here = tokens.q_pos_BS.shape[1], jax.lax.axis_index(ring.axis)
    there = (here - distance) % jax.lax.axis_size(ring.axis)
    met = tokens._replace(k_pos_BT=_positions(ring, length, there), k_seg_BT=k_seg)
    if not ring.is_balanced:
        return met, blockwise.as_tiles(_grid(ring, length))
    chunk = length // 2
    always = _grid(ring, chunk) + np.array([[chunk], [0]], np.int32)
    second = _grid(ring, chunk) + jnp.where(there < here, 0, chunk)
    return met, blockwise.as_tiles(jnp.concatenate([always, second], axis=1))


def _met_form(ring: _Ring) -> Form:
    """In the balanced layout a causal mask hides nothing of the chunks that are computed."""
    is_whole = ring.is_balanced and ring.form.mask == CausalMask()
    return ring.form._replace(mask=FullMask()) if is_whole else ring.form


def _grid(ring: _Ring, length: int) -> Int[np.ndarray, "2 P"]:
    """All tiles of `length` queries and keys."""
    everything = ring.form._replace(mask=FullMask())
    return blockwise.visible_tiles(everything, np.arange(length), np.arange(length))
