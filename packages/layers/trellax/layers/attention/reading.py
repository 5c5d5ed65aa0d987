"""How queries read what a cache shows them: arrays, pages, or either for each group of a flat batch.

    context_BSNH = attend(query_BSNH, view, bias, context=AllGatherContext(...), options={"mask": CausalMask()})

Axes: B batch, S query sequence, R rows of a group, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels.paged_attention import paged_attention
from trellax.layers.attention.cache import CacheView, GroupedView, PagedView
from trellax.layers.attention.context import ContextParallelism
from trellax.layers.attention.per_device import PerDeviceAttention, bias_of_device
from trellax.parallel import split_over_devices

Axes = tuple[str | None, ...]

PLACES = ("block_table", "query_positions", "lengths")
"""What a paged view says of its rows; every device has it whole."""


def attend(
    query: Float[Array, "B S N H"],
    view: CacheView | PagedView | GroupedView,
    bias: Any,
    *,
    context: ContextParallelism,
    options: dict[str, Any],
) -> Float[Array, "B S N H"]:
    """Returns what each query reads.

    Args:
        query: position-encoded queries; of a flat batch [1, S, N, H], its groups one after the other.
        view: what the cache shows.
        bias: what is added to scores, or None.
        context: how devices that hold parts of rows work together.
        options: mask, scale, soft_cap and implementation; pages are read by the implementation that their cache names.
    """
    if isinstance(view, GroupedView):
        return _attend_groups(query, view, bias, context=context, options=options)
    if isinstance(view, PagedView):
        return _attend_pages(query, view, bias, options)
    return PerDeviceAttention.of(query, context, options)(query, view, bias)


def _attend_groups(query: Array, view: GroupedView, bias: Any, **how: Any) -> Array:
    read, start = [], 0
    for length, part in view.parts:
        rows = (part.block_table if isinstance(part, PagedView) else part.key).shape[0]
        of_group = query[0, start : start + rows * length].reshape(rows, length, *query.shape[2:])
        read.append(attend(of_group, part, bias, **how).reshape(-1, *query.shape[2:]))
        start += rows * length
    return jnp.concatenate(read)[None]


def _attend_pages(query: Array, view: PagedView, bias: Any, options: dict[str, Any]) -> Array:
    """Each device reads its heads of the pages; where kv heads do not divide, all devices read all heads."""
    heads: Axes = (None, None, "act_heads", None)
    pages: Axes = (None, None, "act_kv_heads", None)
    split = split_over_devices({heads: query.shape, pages: view.key_pages.shape})
    if split.mesh is None:
        return _read(query, view, bias, options)
    parts = split.parts("act_heads")
    if parts != split.parts("act_kv_heads"):
        heads, pages, parts = (None,) * 4, (None,) * 4, 1
    head_axes = split.axes_of("act_heads") if parts > 1 else ()
    whole = (None, None)
    in_axes = (heads, _axes_of_pages(view, pages), whole, whole, (None,))

    def on_device(query: Array, arrays: Any, *places: Array) -> Array:
        fields: dict[str, Any] = {**arrays, **dict(zip(PLACES, places, strict=True))}
        part = view._replace(**fields)
        return _read(query, part, bias_of_device(bias, head_axes, query.shape[2]), options)

    arrays = {name: getattr(view, name) for name in in_axes[1]}
    args = (query, arrays, *(getattr(view, name) for name in PLACES))
    return split.run(on_device, args, in_axes=in_axes, out_axes=heads)


def _axes_of_pages(view: PagedView, pages: Axes) -> dict[str, Any]:
    axes: dict[str, Any] = {"key_pages": pages, "value_pages": pages}
    if view.key_scales is not None:
        axes |= {"key_scales": pages[:3], "value_scales": pages[:3]}
    return axes


def _read(query: Array, view: PagedView, bias: Any, options: dict[str, Any]) -> Array:
    return paged_attention(
        query,
        view.key_pages,
        view.value_pages,
        view.block_table,
        view.query_positions,
        view.lengths,
        key_scales=view.key_scales,
        value_scales=view.value_scales,
        bias=bias,
        **options | {"implementation": view.implementation},
    )
