"""The record of one attention call: inputs and options, checked once, and what may be asked of them.

Axes: B batch, S query sequence, T key sequence, N heads, K kv heads, G query heads a kv head (N = K·G),
H head dim.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from trellax.kernels.attention.bias import ScoreBias
from trellax.kernels.masks import FullMask, Mask


@dataclasses.dataclass(frozen=True)
class AttentionCall:
    """Arguments of `attention`, validated. Positions of None mean 0, 1, 2, …"""

    q_BSNH: Float[Array, "B S N H"]
    k_BTKH: Float[Array, "B T K H"]
    v_BTKH: Float[Array, "B T K H"]
    mask: Mask
    q_pos_BS: Int[Array, "#B S"] | None
    k_pos_BT: Int[Array, "#B T"] | None
    q_seg_BS: Int[Array, "#B S"] | None
    k_seg_BT: Int[Array, "#B T"] | None
    bias: ScoreBias | Float[Array, "#B #N S T"] | None
    scale: float
    soft_cap: float | None

    @property
    def has_array_positions(self) -> bool:
        """Positions are data, so nothing is known about them while tracing."""
        return self.q_pos_BS is not None

    @property
    def segments_matter(self) -> bool:
        return self.mask.uses_segments and self.q_seg_BS is not None

    @property
    def dense_bias(self) -> Array | None:
        """The bias if it was given as an array."""
        return self.bias if hasattr(self.bias, "ndim") else None  # type: ignore[return-value]

    @property
    def symbolic_bias(self) -> ScoreBias | None:
        return None if hasattr(self.bias, "ndim") else self.bias

    def query_positions(self) -> Int[Array, "#B S"]:
        if self.q_pos_BS is not None:
            return self.q_pos_BS
        return jnp.arange(self.q_BSNH.shape[1], dtype=jnp.int32)[None]

    def key_positions(self) -> Int[Array, "#B T"]:
        if self.k_pos_BT is not None:
            return self.k_pos_BT
        return jnp.arange(self.k_BTKH.shape[1], dtype=jnp.int32)[None]

    def dense_mask(self) -> Bool[Array, "#B 1 S T"] | None:
        """The mask as booleans; None if every query may attend to every key."""
        if self.mask == FullMask():
            return None
        return self.mask.dense(
            self.query_positions(), self.key_positions(), self.q_seg_BS, self.k_seg_BT
        )

    def full_bias(self) -> Float[Array, "#B #N S T"] | None:
        """The bias as an array; None if there is none."""
        if self.symbolic_bias is not None:
            return self.symbolic_bias.dense(self.query_positions(), self.key_positions())
        return self.dense_bias

    def is_static_mask(self) -> bool:
        """Whether `mask.is_causal` and `mask.window` on array indices say all that is masked."""
        return self.mask.is_exact and not self.segments_matter and not self.has_array_positions

    def has_empty_rows(self) -> bool:
        """Whether a query may be left without any key: only data can say, so True when in doubt."""
        if not self.is_static_mask():
            return self.mask != FullMask()
        window, late = self.mask.window, self.q_BSNH.shape[1] - self.k_BTKH.shape[1]
        return window is not None and late >= window


def make_call(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Mask | None = None,
    query_positions: Array | None = None,
    key_positions: Array | None = None,
    query_segments: Array | None = None,
    key_segments: Array | None = None,
    bias: ScoreBias | Array | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> AttentionCall:
    """Checks the arguments of `attention` and gathers them."""
    _check_shapes(query, key, value)
    positions, segments = (query_positions, key_positions), (query_segments, key_segments)
    for name, pair in (("positions", positions), ("segments", segments)):
        if (pair[0] is None) != (pair[1] is None):
            raise ValueError(f"attention: give both query_{name} and key_{name}, or neither.")
    if soft_cap is not None and soft_cap <= 0:
        raise ValueError(f"attention: soft_cap must be positive, got {soft_cap}.")
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    return AttentionCall(
        query, key, value, mask or FullMask(), *positions, *segments, bias, scale, soft_cap
    )


def _check_shapes(query: Array, key: Array, value: Array) -> None:
    if query.ndim != 4 or key.ndim != 4 or key.shape != value.shape:
        raise ValueError(
            "attention: expected query [B, S, N, H], key and value [B, T, K, H]; got "
            f"{query.shape}, {key.shape}, {value.shape}."
        )
    if query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"attention: batch and head dim differ: query {query.shape}, key {key.shape}."
        )
    if query.shape[2] % key.shape[2]:
        raise ValueError(
            f"attention: {query.shape[2]} heads are no multiple of {key.shape[2]} kv heads."
        )
    if not query.dtype == key.dtype == value.dtype:
        raise ValueError(
            f"attention: dtypes differ: {query.dtype}, {key.dtype}, {value.dtype}. Cast them first."
        )
