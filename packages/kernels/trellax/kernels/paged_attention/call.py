"""The record of one paged attention call: inputs and options, checked once, and what may be asked of them.

Axes: B rows, S queries a row, T keys, P pages a row at most, N heads, K kv heads, G query heads a kv head (N = K·G), H head dim.
`num_pages` and `page_size` have no letters: pages [num_pages, page_size, K, H].
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from trellax.kernels.attention import ScoreBias
from trellax.kernels.masks import FullMask, Mask

QUANTIZED_DTYPES = ("int8", "float8_e4m3fn")
"""Page dtypes that come with a scale a key (or value) and kv head."""
PLAIN_DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class PagedAttentionCall:
    """Arguments of `paged_attention`, validated."""

    q_BSNH: Float[Array, "B S N H"]
    key_pages: Shaped[Array, "num_pages page_size K H"]
    value_pages: Shaped[Array, "num_pages page_size K H"]
    block_table_BP: Int[Array, "B P"]
    q_pos_BS: Int[Array, "B S"]
    lengths_B: Int[Array, " B"]
    key_scales: Float[Array, "num_pages page_size K"] | None
    value_scales: Float[Array, "num_pages page_size K"] | None
    mask: Mask
    bias: ScoreBias | None
    scale: float
    soft_cap: float | None

    @property
    def page_size(self) -> int:
        return self.key_pages.shape[1]

    @property
    def num_kv_heads(self) -> int:
        return self.key_pages.shape[2]

    @property
    def is_quantized(self) -> bool:
        return self.key_scales is not None

    @property
    def compute_dtype(self) -> jnp.dtype:
        """What keys and values are converted to: exact for pages of eight bits."""
        if self.is_quantized:
            return self.q_BSNH.dtype
        return jnp.promote_types(self.q_BSNH.dtype, self.key_pages.dtype)

    def visible(self, k_pos_BT: Int[Array, "#B T"]) -> Bool[Array, "B S T"]:
        """Which keys each query may read: written, allowed by the mask, and none for a padding query."""
        allowed = self.mask.allows(self.q_pos_BS[:, :, None], k_pos_BT[:, None, :], None, None)
        return allowed & self.written(k_pos_BT)[:, None, :] & (self.q_pos_BS >= 0)[:, :, None]

    def written(self, k_pos_BT: Int[Array, "#B T"]) -> Bool[Array, "B T"]:
        return k_pos_BT < self.lengths_B[:, None]


def make_call(
    query: Array,
    key_pages: Array,
    value_pages: Array,
    block_table: Array,
    query_positions: Array,
    lengths: Array,
    *,
    key_scales: Array | None = None,
    value_scales: Array | None = None,
    mask: Mask | None = None,
    bias: ScoreBias | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> PagedAttentionCall:
    """Checks the arguments of `paged_attention` and gathers them."""
    _check_pages(query, key_pages, value_pages)
    _check_rows(query, block_table, query_positions, lengths)
    _check_dtypes(query, key_pages, value_pages)
    _check_scales(key_pages, key_scales, value_scales)
    if hasattr(bias, "ndim"):
        raise ValueError("paged_attention: bias is an array; give a ScoreBias such as AlibiBias.")
    if soft_cap is not None and soft_cap <= 0:
        raise ValueError(f"paged_attention: soft_cap must be positive, got {soft_cap}.")
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    return PagedAttentionCall(
        query,
        key_pages,
        value_pages,
        block_table,
        query_positions,
        lengths,
        key_scales,
        value_scales,
        mask or FullMask(),
        bias,
        scale,
        soft_cap,
    )


def _check_pages(query: Array, key_pages: Array, value_pages: Array) -> None:
    if query.ndim != 4 or key_pages.ndim != 4 or key_pages.shape != value_pages.shape:
        raise ValueError(
            "paged_attention: expected query [B, S, N, H], key and value pages [num_pages, page_size, K, H]; got "
            f"{query.shape}, {key_pages.shape}, {value_pages.shape}."
        )
    N, (K, H) = query.shape[2], key_pages.shape[2:]
    if query.shape[3] != H or N % K:
        raise ValueError(
            f"paged_attention: head dims must be equal and {N} heads a multiple of {K} kv heads: query "
            f"{query.shape}, pages {key_pages.shape}."
        )


def _check_rows(query: Array, block_table: Array, query_positions: Array, lengths: Array) -> None:
    B, S = query.shape[:2]
    is_table = block_table.ndim == 2 and block_table.shape[0] == B
    if not (is_table and query_positions.shape == (B, S) and lengths.shape == (B,)):
        raise ValueError(
            f"paged_attention: for query {query.shape}, expected block_table [{B}, P], query_positions [{B}, {S}], "
            f"lengths [{B}]; got {block_table.shape}, {query_positions.shape}, {lengths.shape}."
        )
    for name, ids in (
        ("block_table", block_table),
        ("query_positions", query_positions),
        ("lengths", lengths),
    ):
        if ids.dtype != jnp.int32:
            raise ValueError(f"paged_attention: {name} must be int32, got {ids.dtype}.")


def _check_dtypes(query: Array, key_pages: Array, value_pages: Array) -> None:
    if query.dtype not in PLAIN_DTYPES:
        raise ValueError(
            f"paged_attention: query is {query.dtype}; expected one of {PLAIN_DTYPES}."
        )
    if key_pages.dtype != value_pages.dtype:
        raise ValueError(
            f"paged_attention: pages differ in dtype: {key_pages.dtype}, {value_pages.dtype}."
        )
    if key_pages.dtype not in PLAIN_DTYPES + QUANTIZED_DTYPES:
        raise ValueError(
            f"paged_attention: pages are {key_pages.dtype}; expected one of {PLAIN_DTYPES + QUANTIZED_DTYPES}."
        )


def _check_scales(key_pages: Array, key_scales: Array | None, value_scales: Array | None) -> None:
    is_quantized = key_pages.dtype in QUANTIZED_DTYPES
    for name, scales in (("key_scales", key_scales), ("value_scales", value_scales)):
        if (scales is not None) != is_quantized:
            raise ValueError(
                f"paged_attention: {name} must be given for pages of {QUANTIZED_DTYPES} and for no others; pages are "
                f"{key_pages.dtype}."
            )
        if scales is None:
            continue
        if scales.shape != key_pages.shape[:3] or scales.dtype != jnp.float32:
            raise ValueError(
                f"paged_attention: {name} must be float32 {key_pages.shape[:3]}, got {scales.dtype} {scales.shape}."
            )
