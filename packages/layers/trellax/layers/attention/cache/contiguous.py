"""`ContiguousCache`: a buffer of `max_length` slots for each sequence.

Axes: B batch, S sequence of this call, R rows of a group, T slots of a sequence, K kv heads, H head dim.
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

AXES = ("batch", None, "act_kv_heads", "act_head_dim")


class BufferedCache(AttentionCache):
    """What layouts share that keep a buffer of slots for each sequence: they differ in which slot is whose."""

    class Config(AttentionCache.Config):
        """
        Fields:
            dtype: type that keys and values are stored in: a float type, "int8" or "float8_e4m3fn"; None for
                `param_dtype`.
        """

        dtype: DType | None = None

    @property
    def storage(self) -> Storage:
        return Storage(self.cfg.dtype or self.cfg.param_dtype)

    @structural
    def num_slots(self, max_length: int) -> int:
        """Returns T for sequences of at most `max_length` tokens."""
        raise NotImplementedError

    @structural
    def init_state(
        self, *, batch_size: int, max_length: int, pages: PagePool | None = None
    ) -> dict[str, Any]:
        T = self.num_slots(max_length)
        shape = (batch_size, T, self.cfg.num_kv_heads, self.cfg.head_dim)
        storage = Storage(self.cfg.dtype or self.cfg.param_dtype)
        # The position of each slot's key, -1 while it is empty.
        places = {"position": jnp.full((batch_size, T), -1, jnp.int32)}
        return storage.empty("key", shape) | storage.empty("value", shape) | places

    @structural
    def state_axes(self) -> dict[str, Any]:
        storage = Storage(self.cfg.dtype or self.cfg.param_dtype)
        names = (*storage.empty("key", (1, 1)), *storage.empty("value", (1, 1)), "position")
        return {name: StateAxis("slot") for name in names}

    def _stored(self, key: Array, value: Array, rows: list[Rows]) -> dict[str, Array]:
        """Writes the tokens of the rows, a group after the other, and returns the new state."""
        at_rows, at_slots, positions = [], [], []
        for r in rows:
            slots = self._slots(r)
            at_rows.append(jnp.broadcast_to(r.slots[:, None], slots.shape).reshape(-1))
            at_slots.append(slots.reshape(-1))
            positions.append(r.positions.reshape(-1))
        at = (jnp.concatenate(at_rows), jnp.concatenate(at_slots))
        K, H = self.cfg.num_kv_heads, self.cfg.head_dim
        new = self.storage.encoded("key", key.reshape(-1, K, H))
        new |= self.storage.encoded("value", value.reshape(-1, K, H))
        new["position"] = jnp.concatenate(positions)
        assert self.state is not None
        state = {name: written(self.state[name], at, new[name]) for name in new}
        for name in ("key", "value"):
            state[name] = self.constrain(state[name], AXES)
        for name, x in state.items():
            self.add_state_update(name, x)
        return state

    def _slots(self, rows: Rows) -> Array:
        """Returns the slot of each token, one past the end for what is not kept, [R, S]."""
        raise NotImplementedError

    def _of_sequences(self, state: dict[str, Array], name: str, rows: Rows, dtype: Any) -> Array:
        """Returns the buffers of the rows' sequences, [R, T, K, H]."""
        in_place = rows.block_table is None  # A plain batch: row b is sequence b.
        take = lambda x: x if in_place else jnp.take(x, rows.slots, axis=0, mode="clip")
        scale = state.get(f"{name}_scale")
        return self.storage.decoded(
            take(state[name]), None if scale is None else take(scale), dtype
        )


class ContiguousCache(BufferedCache):
    """One buffer of `max_length` slots a sequence; the token at position p lies in slot p.

    Rows of a call may stand at different positions. Rows that have fewer tokens than others are padded with
    segment 0, left or right: padding is not written. To write a position again replaces it, so drafts that
    were refused are simply written over. Tokens past `max_length` are dropped, and what they would have said
    is lost: the caller watches the length.
    """

    @structural
    def num_slots(self, max_length: int) -> int:
        return max_length

    def forward(
        self, key: Float[Array, "B S K H"], value: Float[Array, "B S K H"], tokens: TokenInfo
    ) -> CacheView | PagedView | GroupedView:
        if not self.state:
            return only_new(key, value, tokens)
        self._check_positions(tokens)
        rows = rows_of(tokens)
        state = self._stored(key, value, rows)
        T = state["position"].shape[1]

        def view(rows: Rows) -> CacheView:
            at_T = jnp.arange(T, dtype=jnp.int32)[None]
            if rows.block_table is None:
                is_key = state["position"] >= 0
            else:  # What an earlier sequence left in the slot lies at positions not written yet.
                is_key = at_T < rows.lengths[:, None]
            return CacheView(
                key=self._of_sequences(state, "key", rows, key.dtype),
                value=self._of_sequences(state, "value", rows, value.dtype),
                query_positions=rows.positions,
                key_positions=at_T,
                query_segments=rows.is_token.astype(jnp.int32),
                key_segments=is_key.astype(jnp.int32),
            )

        return combined(tokens, [view(r) for r in rows])

    def _slots(self, rows: Rows) -> Array:
        assert self.state is not None
        T = self.state["position"].shape[1]
        return jnp.where(rows.is_token, rows.positions, T)
