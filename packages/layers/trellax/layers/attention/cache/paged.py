"""`PagedCache`: keys and values in pages of a pool that all sequences share (PagedAttention, 2309.06180).

    attention_cfg.set(cache=PagedCache.default_config().set(dtype="int8"))

Which pages are whose is data, a block table, so sequences take memory as they grow and may share pages of a common
prefix; who hands the pages out is not this layer's concern. Attention reads the pages where they lie.

Axes: B batch, S sequence of this call, R rows of a group, P pages of a row at most, K kv heads, H head dim.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.config import DType
from trellax.layers.attention.cache.interface import (
    AttentionCache,
    Rows,
    combined,
    only_new,
    rows_of,
)
from trellax.layers.attention.cache.storage import Storage, written
from trellax.layers.attention.cache.views import CacheView, GroupedView, PagedView
from trellax.layers.attention.tokens import TokenInfo
from trellax.layers.base import PagePool, StateAxis
from trellax.layers.module import structural


class PagedCache(AttentionCache):
    """A pool of pages. Page 0 is the null page: padding is written there, and it is never read.

    In a batch without groups each row has its own pages, as many as `max_length` takes.
    """

    class Config(AttentionCache.Config):
        """
        Fields:
            dtype: type that keys and values are stored in: a float type, "int8" or "float8_e4m3fn"; None for
                `param_dtype`.
            page_size: tokens a page where the caller of `init_state` gives no pool.
            implementation: kernels to try in order or the one that must serve; None for the best.
        """

        dtype: DType | None = None
        page_size: int = 16
        implementation: str | tuple[str, ...] | None = None

        def check(self) -> None:
            super().check()
            if self.page_size < 1:
                raise ValueError(f"page_size={self.page_size} must be at least 1.")

    @property
    def storage(self) -> Storage:
        return Storage(self.cfg.dtype or self.cfg.param_dtype)

    @structural
    def init_state(
        self, *, batch_size: int, max_length: int, pages: PagePool | None = None
    ) -> dict[str, Any]:
        if pages is None:
            size = self.cfg.page_size
            pages = PagePool(1 + batch_size * -(-max_length // size), size)
        shape = (pages.num_pages, pages.page_size, self.cfg.num_kv_heads, self.cfg.head_dim)
        storage = Storage(self.cfg.dtype or self.cfg.param_dtype)
        return storage.empty("key", shape) | storage.empty("value", shape)

    @structural
    def state_axes(self) -> dict[str, Any]:
        storage = Storage(self.cfg.dtype or self.cfg.param_dtype)
        names = (*storage.empty("key", (1, 1)), *storage.empty("value", (1, 1)))
        return {name: StateAxis("page") for name in names}

    def forward(
        self, key: Float[Array, "B S K H"], value: Float[Array, "B S K H"], tokens: TokenInfo
    ) -> CacheView | PagedView | GroupedView:
        if not self.state:
            return only_new(key, value, tokens)
        self._check_positions(tokens)
        rows = [self._with_pages(r) for r in rows_of(tokens)]
        state = self._stored(key, value, rows)

        def view(rows: Rows) -> PagedView:
            assert rows.block_table is not None
            return PagedView(
                key_pages=state["key"],
                value_pages=state["value"],
                block_table=rows.block_table,
                query_positions=jnp.where(rows.is_token, rows.positions, -1),
                lengths=rows.lengths,
                key_scales=state.get("key_scale"),
                value_scales=state.get("value_scale"),
                implementation=self.cfg.implementation,
            )

        return combined(tokens, [view(r) for r in rows])

    def _with_pages(self, rows: Rows) -> Rows:
        """Gives the rows of a plain batch the pages that are theirs."""
        if rows.block_table is not None:
            return rows
        assert self.state is not None
        B = rows.slots.shape[0]
        P = (self.state["key"].shape[0] - 1) // B
        table = 1 + rows.slots[:, None] * P + jnp.arange(P, dtype=jnp.int32)
        return rows._replace(block_table=table)

    def _stored(self, key: Array, value: Array, rows: list[Rows]) -> dict[str, Array]:
        assert self.state is not None
        page_size = self.state["key"].shape[1]
        places = [_places(r, page_size) for r in rows]
        at = tuple(jnp.concatenate(parts) for parts in zip(*places, strict=True))
        K, H = self.cfg.num_kv_heads, self.cfg.head_dim
        new = self.storage.encoded("key", key.reshape(-1, K, H))
        new |= self.storage.encoded("value", value.reshape(-1, K, H))
        state = {name: written(self.state[name], at, x) for name, x in new.items()}
        for name, x in state.items():
            axes = (None, None, "act_kv_heads", "act_head_dim")[: x.ndim]
            state[name] = self.constrain(x, axes)
            self.add_state_update(name, state[name])
        return state


def _places(rows: Rows, page_size: int) -> tuple[Array, Array]:
    """Returns the page, and the place in it, of each token of the rows, flat; padding goes to the null page."""
    assert rows.block_table is not None
    P = rows.block_table.shape[1]
    is_kept = rows.is_token & (rows.positions < P * page_size)
    index = jnp.where(is_kept, rows.positions // page_size, 0)
    pages = jnp.take_along_axis(rows.block_table, index, axis=1)
    return jnp.where(is_kept, pages, 0).reshape(-1), (rows.positions % page_size).reshape(-1)
