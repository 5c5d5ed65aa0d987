"""Attention a tile at a time, with an online softmax, in plain XLA: one scan over the tiles a mask can see.

Where positions are implicit, tiles that a causal or window mask hides are not visited, and a tile fits a cache, which
makes it the fastest choice on CPU as well. The program's size, and so its compile time, does not grow with the sequence.

Axes: B batch, S query sequence, T key sequence, K kv heads, G query heads a kv head, H head dim.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from trellax.kernels import placement
from trellax.kernels.attention import blockwise
from trellax.kernels.attention.blocks import block_sizes
from trellax.kernels.attention.blockwise import QKV, Form, Tokens
from trellax.kernels.attention.call import AttentionCall
from trellax.kernels.attention.xla import group_heads
from trellax.kernels.masks import FullMask


def refusal(call: AttentionCall) -> str | None:
    if call.dense_bias is not None:
        return "a dense bias holds S·T numbers a head, which it exists to avoid; use a ScoreBias"
    return None


def run(call: AttentionCall) -> Float[Array, "B S N H"]:
    S, (T, K) = call.q_BSNH.shape[1], call.k_BTKH.shape[1:3]
    sizes = block_sizes("xla_chunked", call)
    q_size, k_size = min(sizes["query"], S), min(sizes["key"], T)
    form = Form(call.mask, call.scale, call.soft_cap, q_size, k_size, T)
    q_BKGSH = _pad(group_heads(call.q_BSNH, K).transpose(0, 2, 3, 1, 4), q_size, axis=3)
    k_BKTH = _pad(call.k_BTKH.transpose(0, 2, 1, 3), k_size, axis=2)
    v_BKTH = _pad(call.v_BTKH.transpose(0, 2, 1, 3), k_size, axis=2)
    q_pos, q_seg = (_pad(x, q_size, axis=1) for x in (call.q_pos_BS, call.q_seg_BS))
    k_pos, k_seg = (_pad(x, k_size, axis=1) for x in (call.k_pos_BT, call.k_seg_BT))
    tokens = Tokens(q_pos, k_pos, q_seg, k_seg, call.symbolic_bias)
    arrays = jax.tree.leaves(tokens)
    arrays += [q_BKGSH, k_BKTH, v_BKTH]
    qkv = jax.tree.map(lambda x: placement.like_varying(x, *arrays), (q_BKGSH, k_BKTH, v_BKTH))
    o_BKGSH = _attend(form, qkv, tokens)[:, :, :, :S]
    return o_BKGSH.transpose(0, 3, 1, 2, 4).reshape(call.q_BSNH.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(form: Form, qkv: QKV, tokens: Tokens) -> Array:
    return _forward(form, qkv, tokens)[0]


def _forward(form: Form, qkv: QKV, tokens: Tokens) -> tuple[Array, Any]:
    tiles = _tiles(form, qkv, tokens)
    softmax = blockwise.attend(form, blockwise.empty_softmax(qkv), qkv, tokens, tiles)
    o_BKGSH, lse_BKGS = blockwise.normalized(softmax, qkv[0].dtype)
    return o_BKGSH, (qkv, tokens, o_BKGSH, lse_BKGS)


def _backward(form: Form, kept: Any, do_BKGSH: Array) -> tuple[QKV, None]:
    qkv, tokens, o_BKGSH, lse_BKGS = kept
    tiles, of_rows = _tiles(form, qkv, tokens), blockwise.rows(o_BKGSH, do_BKGSH, lse_BKGS)
    zeros = blockwise.zero_gradients(qkv)
    gradients = blockwise.add_gradients(form, zeros, qkv, tokens, tiles, of_rows)
    return blockwise.cast(gradients, qkv), None


_attend.defvjp(_forward, _backward)


def _tiles(form: Form, qkv: QKV, tokens: Tokens) -> blockwise.Tiles:
    """All tiles in which the mask may let a query see a key, as far as that is known while tracing."""
    if tokens.q_pos_BS is not None:
        form = form._replace(mask=FullMask())
    q_pos_S, k_pos_T = np.arange(qkv[0].shape[3]), np.arange(qkv[1].shape[2])
    return blockwise.as_tiles(blockwise.visible_tiles(form, q_pos_S, k_pos_T))


def _pad(x: Array | None, size: int, *, axis: int) -> Any:
    """Appends zeros up to a multiple of `size`."""
    if x is None or x.shape[axis] % size == 0:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % size)
    return jnp.pad(x, widths)
