"""The paged attention op: its signature, and which implementation serves which call.

    out_BSNH = paged_attention(q_BSNH, key_pages, value_pages, block_table_BP, positions_BS, lengths_B, mask=CausalMask())
    print(explain(q_BSNH, key_pages, value_pages, block_table_BP, positions_BS, lengths_B, mask=CausalMask()))

Axes: B rows, S queries a row, P pages a row at most, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float, Int, Shaped

from trellax.kernels import dispatch
from trellax.kernels.attention import ScoreBias
from trellax.kernels.masks import Mask
from trellax.kernels.paged_attention import native, xla, xla_chunked
from trellax.kernels.paged_attention.call import PagedAttentionCall, make_call

NATIVE = dispatch.Implementation("native", native.run, native.refusal)
CHUNKED = dispatch.Implementation("xla_chunked", xla_chunked.run, dispatch.always)
XLA = dispatch.Implementation("xla", xla.run, dispatch.always)
IMPLEMENTATIONS = (NATIVE, CHUNKED, XLA)


def paged_attention(
    query: Float[Array, "B S N H"],
    key_pages: Shaped[Array, "num_pages page_size K H"],
    value_pages: Shaped[Array, "num_pages page_size K H"],
    block_table: Int[Array, "B P"],
    query_positions: Int[Array, "B S"],
    lengths: Int[Array, " B"],
    *,
    key_scales: Float[Array, "num_pages page_size K"] | None = None,
    value_scales: Float[Array, "num_pages page_size K"] | None = None,
    mask: Mask | None = None,
    bias: ScoreBias | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    implementation: dispatch.Requested = None,
) -> Float[Array, "B S N H"]:
    """Computes attention of each row's queries on the keys and values in the row's pages (PagedAttention, 2309.06180).

    The j-th page of a row's block table holds its positions from j·page_size on. Forward only: it serves.

    Args:
        query: queries; float32, bfloat16 or float16.
        key_pages: keys of all rows; a dtype as query's, or int8 or float8_e4m3fn with `key_scales`.
        value_pages: values of all rows, as the keys.
        block_table: int32 page ids of each row, in order. What lies past the row's length is not read for it.
        query_positions: int32 places of the queries in their rows; -1 marks padding, which gives zeros.
        lengths: int32 number of keys of each row that are written; a query may read positions below it that the mask
            allows.
        key_scales: float32 factor of each key, a kv head; given exactly for pages of eight bits.
        value_scales: float32 factor of each value, a kv head; given exactly for pages of eight bits.
        mask: a mask of positions, or None for everything. There are no segments here: a row is one document.
        bias: a rule on positions such as `AlibiBias`, added after `soft_cap`; or None.
        scale: factor of the scores; None for H^-0.5.
        soft_cap: c in c·tanh(score / c), or None.
        implementation: None for the best that supports the call; a name of `IMPLEMENTATIONS` that must;
            or names, tried in order.

    Returns:
        Weighted values in the query's dtype; softmax and sums are float32. A query that may read nothing gets zeros.

    Raises:
        ValueError: shapes or dtypes do not fit, or a name is unknown.
        UnsupportedError: no requested implementation supports the call; it lists every reason.
    """
    call = make_call(
        query,
        key_pages,
        value_pages,
        block_table,
        query_positions,
        lengths,
        key_scales=key_scales,
        value_scales=value_scales,
        mask=mask,
        bias=bias,
        scale=scale,
        soft_cap=soft_cap,
    )
    return _choose(call, implementation).implementation.run(call)


def explain(
    query: Any,
    key_pages: Any,
    value_pages: Any,
    block_table: Any,
    query_positions: Any,
    lengths: Any,
    *,
    implementation: dispatch.Requested = None,
    **options: Any,
) -> dispatch.Choice:
    """Tells which implementation `paged_attention` would take and why not the others; computes nothing.

    Takes the arguments of `paged_attention`; arrays may be `jax.ShapeDtypeStruct`.
    """
    call = make_call(
        query, key_pages, value_pages, block_table, query_positions, lengths, **options
    )
    return _choose(call, implementation)


def _choose(call: PagedAttentionCall, implementation: dispatch.Requested) -> dispatch.Choice:
    return dispatch.choose("paged_attention", IMPLEMENTATIONS, requested=implementation, call=call)
