"""Attention by JAX's Pallas "splash" kernel for TPU, which skips the blocks that a static mask hides.

Axes: B batch, S query sequence, T key sequence, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

import functools

import jax
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
    kernel = splash_attention.make_splash_mha_single_device(
        mask=splash_attention.MultiHeadMask([_mask(call)] * call.q_BSNH.shape[2]),
        block_sizes=_block_sizes(call),
        attn_logits_soft_cap=call.soft_cap,
        residual_checkpoint_name=STATISTICS_NAME,  # Of both its result and the softmax's sums.
        interpret=interpret,
    )
    q_BNSH = (call.q_BSNH * call.scale).astype(call.q_BSNH.dtype).transpose(0, 2, 1, 3)
    k_BKTH, v_BKTH = (x.transpose(0, 2, 1, 3) for x in (call.k_BTKH, call.v_BTKH))
    segments = _segments(call)
    o_BNSH = jax.vmap(kernel, in_axes=(0, 0, 0, None if segments is None else 0))(
        q_BNSH, k_BKTH, v_BKTH, segments
    )
    return zero_empty_rows(call, o_BNSH.transpose(0, 2, 1, 3))


def _mask(call: AttentionCall) -> splash_attention.Mask:
    shape = (call.q_BSNH.shape[1], call.k_BTKH.shape[1])
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
