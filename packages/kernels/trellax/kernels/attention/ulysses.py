"""Ulysses attention: for the time of attention devices trade a part of the row for a part of the heads (2309.14509).

    out_BSNH = ulysses_attention(q_BSNH, k_BSKH, v_BSKH, axis="seq", mask=CausalMask())      # inside jax.shard_map

Two all-to-alls; in between each device has whole rows of few heads, so any kernel serves, with implicit positions.

Axes: B batch, S tokens of a device, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

import functools

import jax
from jaxtyping import Array, Float, Int

from trellax.kernels import dispatch
from trellax.kernels.attention.api import attention
from trellax.kernels.attention.bias import ScoreBias
from trellax.kernels.attention.zigzag import Axis
from trellax.kernels.masks import Mask


def ulysses_attention(
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
        axis: mesh axes that the row is split over, of n devices.
        mask: what each query may attend to, by places in the whole row.
        segments: documents of this device's tokens, 0 for padding.
        bias: a rule on positions, of all N heads.
        scale: factor of the scores; None for H^-0.5.
        soft_cap: c in c·tanh(score / c), or None.
        implementation: as for `attention`.

    Raises:
        ValueError: N or K is no multiple of n, or the bias is dense.
        UnsupportedError: no requested implementation supports the call.
    """
    n = jax.lax.axis_size(axis)
    _check(query.shape[2], key.shape[2], n, bias)
    trade = functools.partial(jax.lax.all_to_all, axis_name=axis, tiled=True)
    q, k, v = (trade(x, split_axis=2, concat_axis=1) for x in (query, key, value))
    if bias is not None:
        bias = bias.of_heads(jax.lax.axis_index(axis) * q.shape[2], q.shape[2])
    if segments is not None:
        segments = jax.lax.all_gather(segments, axis, axis=1, tiled=True)
    out = attention(
        q,
        k,
        v,
        mask=mask,
        query_segments=segments,
        key_segments=segments,
        bias=bias,
        scale=scale,
        soft_cap=soft_cap,
        implementation=implementation,
    )
    return trade(out, split_axis=1, concat_axis=2)


def _check(num_heads: int, num_kv_heads: int, n: int, bias: ScoreBias | Array | None) -> None:
    if num_heads % n or num_kv_heads % n:
        raise ValueError(
            f"ulysses_attention: {n} devices share the heads, but {num_heads} heads and {num_kv_heads} kv "
            f"heads do not both divide by {n}; repeat kv heads, or use RingContext."
        )
    if hasattr(bias, "ndim"):
        raise ValueError(
            "ulysses_attention: a dense bias is split by queries and would be needed by heads; use a "
            "ScoreBias, or AllGatherContext."
        )
