"""Attention by JAX's Pallas "splash" kernel for TPU, which skips the blocks that a static mask hides.

Axes: B batch, S query sequence, T key sequence, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention
from jaxtyping import Array, Float

from trellax.kernels import placement
from trellax.kernels.attention.blocks import block_sizes
from trellax.kernels.attention.blockwise import STATISTICS_NAME
from trellax.kernels.attention.call import AttentionCall
from trellax.kernels.attention.xla import zero_empty_rows

LANES = 128
"""Width of a TPU vector register: lengths and blocks are multiples of it."""


def refusal(call: AttentionCall) -> str | None:
    if placement.platform() != "tpu":
        return f"needs a TPU, and this is traced for {placement.platform()}"
    if not placement.is_per_device():
        return "a Pallas kernel sees one device's arrays: call it inside jax.shard_map"
    return unsupported(call)


def unsupported(call: AttentionCall) -> str | None:
    """The reason why not even a TPU could serve the call, or None."""
    S, T = call.q_BSNH.shape[1], call.k_BTKH.shape[1]
    if call.bias is not None:
        return "has no score bias"
    if not call.mask.is_exact:
        return f"knows causal, window and segment masks only, not {call.mask}"
    if call.has_array_positions:
        return "needs implicit positions (None), to know what the mask hides when it is compiled"
    if S % LANES or T % LANES:
        return f"lengths must be multiples of {LANES}, not {S} and {T}"
    if S != T and (call.segments_matter or call.has_empty_rows()):
        return f"a query may be left without any key when lengths differ ({S} and {T})"
    return None


def run(call: AttentionCall, *, interpret: bool = False) -> Float[Array, "B S N H"]:
    """Runs the kernel; `interpret` emulates it on any platform, slowly, for tests."""
    kernel = _kernel(call, _mask(call), num_parts=1, interpret=interpret)
    return zero_empty_rows(call, _apply(kernel, call))


def run_part(
    call: AttentionCall, positions_nS: np.ndarray, part: Array, *, interpret: bool = False
) -> Float[Array, "B S N H"]:
    """Runs the kernel on one of n parts of a row's queries and on all its keys, T = n·S.

    One program serves all parts: what the mask hides from each is a table, of which `part` chooses.

    Args:
        call: as for `run`; a query must be able to see its own key.
        positions_nS: places in the row of each part's queries.
        part: which one this is, an integer that may be data.
    """
    num_parts = positions_nS.shape[0]
    mask = _mask(call, num_queries=positions_nS.size)
    mask.q_sequence = positions_nS.reshape(-1)
    kernel = _kernel(call, mask, num_parts=num_parts, interpret=interpret)
    o_BSNH = _apply(_part_of(kernel, part, num_parts), call)
    if not call.segments_matter:
        return o_BSNH
    assert call.q_seg_BS is not None
    return jnp.where(call.q_seg_BS[:, :, None, None] != 0, o_BSNH, 0)


def _part_of(kernel: Any, part: Array, num_parts: int) -> Any:
    """The kernel with its tables, [heads, queries, keys], cut to one part of the queries."""

    def cut(x: Array | None, axis: int) -> Array | None:
        if x is None:
            return None
        size = x.shape[axis] // num_parts
        return jax.lax.dynamic_slice_in_dim(x, part * size, size, axis=axis)

    def tables(info: Any) -> Any:
        return info._replace(
            data_next=cut(info.data_next, 1),
            mask_next=cut(info.mask_next, 1),
            block_mask=cut(info.block_mask, 1),
            q_sequence=cut(info.q_sequence, 0),
        )

    infos, options = kernel.tree_flatten()
    return kernel.tree_unflatten(options, tuple(map(tables, infos)))


def _kernel(call: AttentionCall, mask: Any, *, num_parts: int, interpret: bool) -> Any:
    return splash_attention.make_splash_mha(
        mask=splash_attention.MultiHeadMask([mask] * call.q_BSNH.shape[2]),
        block_sizes=_block_sizes(call),
        head_shards=1,
        q_seq_shards=num_parts,
        attn_logits_soft_cap=call.soft_cap,
        residual_checkpoint_name=STATISTICS_NAME,  # Of both its result and the softmax's sums.
        interpret=interpret,
    )


def _apply(kernel: Any, call: AttentionCall) -> Float[Array, "B S N H"]:
    q_BNSH = (call.q_BSNH * call.scale).astype(call.q_BSNH.dtype).transpose(0, 2, 1, 3)
    k_BKTH, v_BKTH = (x.transpose(0, 2, 1, 3) for x in (call.k_BTKH, call.v_BTKH))
    segments = _segments(call)
    o_BNSH = jax.vmap(kernel, in_axes=(0, 0, 0, None if segments is None else 0))(
        q_BNSH, k_BKTH, v_BKTH, segments
    )
    return o_BNSH.transpose(0, 2, 1, 3)


def _mask(call: AttentionCall, num_queries: int | None = None) -> Any:
    shape = (num_queries or call.q_BSNH.shape[1], call.k_BTKH.shape[1])
    if call.mask.window is not None:
        left = call.mask.window - 1
        sides = (left, 0 if call.mask.is_causal else left)
        return splash_attention.LocalMask(shape, sides, 0)
    is_causal = call.mask.is_causal
    return (splash_attention.CausalMask if is_causal else splash_attention.FullMask)(shape)


def _segments(call: AttentionCall) -> splash_attention.SegmentIds | None:
    if not call.segments_matter:
        return None
    assert call.q_seg_BS is not None and call.k_seg_BT is not None
    B = call.q_BSNH.shape[0]
    q_seg, k_seg = (
        jax.numpy.broadcast_to(seg, (B, seg.shape[1])) for seg in (call.q_seg_BS, call.k_seg_BT)
    )
    return splash_attention.SegmentIds(q_seg, k_seg)


def _block_sizes(call: AttentionCall) -> splash_attention.BlockSizes:
    sizes = block_sizes("splash", call)
    q = _divisor(call.q_BSNH.shape[1], sizes["query"])
    k = _divisor(call.k_BTKH.shape[1], sizes["key"])
    return splash_attention.BlockSizes(
        block_q=q,
        block_kv=k,
        block_kv_compute=k,
        block_q_dkv=q,
        block_kv_dkv=k,
        block_kv_dkv_compute=k,
        block_q_dq=q,
        block_kv_dq=k,
    )


@functools.cache
def _divisor(length: int, largest: int) -> int:
    """The largest multiple of LANES up to `largest` that divides `length`."""
    return max(size for size in range(LANES, largest + 1, LANES) if length % size == 0)
