"""`SlidingCache`: a ring of slots, for attention that looks back no further than a window.

    attention_cfg.set(mask=SlidingWindow.default_config().set(window=4096),
                      cache=SlidingCache.default_config().set(window=4096))

Memory does not grow with the length of sequences. The token at position p lies in slot p mod T.

Axes: B batch, S sequence of this call, R rows of a group, T slots of the ring, K kv heads, H head dim.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, Required
from trellax.layers.attention.cache.contiguous import BufferedCache
from trellax.layers.attention.cache.interface import Rows, combined, only_new, rows_of
from trellax.layers.attention.cache.views import CacheView, GroupedView, PagedView
from trellax.layers.attention.tokens import TokenInfo
from trellax.layers.module import structural


class _New(NamedTuple):
    """The tokens that a call brings, as far as a row may read them: its own (C rows), or all of them (C = 1).

    Attributes:
        key: keys.
        value: values.
        positions: places in their sequences.
        documents: one more than the slot of their sequence, 0 for padding.
    """

    key: Float[Array, "C S K H"]
    value: Float[Array, "C S K H"]
    positions: Int[Array, "C S"]
    documents: Int[Array, "C S"]

    @classmethod
    def of_rows(cls, rows: Rows, key: Array, value: Array) -> _New:
        documents = jnp.where(rows.is_token, rows.slots[:, None] + 1, 0)
        return cls(key, value, rows.positions, documents)

    @classmethod
    def of_all(cls, rows: list[Rows], key: Array, value: Array) -> _New:
        flat = lambda parts: jnp.concatenate([x.reshape(-1) for x in parts])[None]
        documents = [jnp.where(r.is_token, r.slots[:, None] + 1, 0) for r in rows]
        return cls(key, value, flat([r.positions for r in rows]), flat(documents))

    def first_of(self, slots: Int[Array, " R"], num_slots: int) -> Int[Array, " R"]:
        """Returns the first position that the call brings of each sequence."""
        never = jnp.iinfo(jnp.int32).max
        firsts = jnp.full(num_slots + 1, never, jnp.int32)  # Entry 0 is padding's.
        return firsts.at[self.documents].min(self.positions)[slots + 1]


class SlidingCache(BufferedCache):
    """A ring of the last `window` + `num_drafts` tokens of each sequence.

    A call may bring any number of tokens: its queries read what the ring held before, and the call's own keys,
    so nothing that they need is written over. Tokens may be written again only if they are among the last
    `num_drafts`: those that a verifier refused.
    """

    class Config(BufferedCache.Config):
        """
        Fields:
            window: tokens that attention looks back on, the query's own included; at least the mask's window.
            num_drafts: how many tokens at the end of a sequence may be taken back.
        """

        window: Required[int] = REQUIRED
        num_drafts: int = 16

        def check(self) -> None:
            super().check()
            if self.window < 1 or self.num_drafts < 0:
                raise ValueError(
                    f"window={self.window} must be at least 1, num_drafts={self.num_drafts} at least 0."
                )

    @structural
    def num_slots(self, max_length: int) -> int:
        return min(max_length, self.cfg.window + self.cfg.num_drafts)

    def forward(
        self, key: Float[Array, "B S K H"], value: Float[Array, "B S K H"], tokens: TokenInfo
    ) -> CacheView | PagedView | GroupedView:
        if not self.state:
            return only_new(key, value, tokens)
        self._check_positions(tokens)
        rows, before = rows_of(tokens), dict(self.state)
        if tokens.groups is None:
            views = [self._view(before, r, _New.of_rows(r, key, value)) for r in rows]
        else:  # A sequence may have several rows in one call.
            new = _New.of_all(rows, key, value)
            views = [self._view(before, r, new) for r in rows]
        self._stored(key, value, rows)
        return combined(tokens, views)

    def _view(self, before: dict[str, Any], rows: Rows, new: _New) -> CacheView:
        """Returns the ring as it was before the call, and the call's own tokens after it."""
        held = before["position"]
        held = held if rows.block_table is None else jnp.take(held, rows.slots, axis=0, mode="clip")
        # Later positions are drafts that are written again, or of an earlier sequence in the slot.
        is_held = (held >= 0) & (held < new.first_of(rows.slots, len(before["position"]))[:, None])
        document = rows.slots[:, None] + 1
        spread = lambda x: jnp.broadcast_to(x, (len(rows.slots), *x.shape[1:]))
        both = lambda old, new: jnp.concatenate([old, spread(new)], axis=1)
        return CacheView(
            key=both(self._of_sequences(before, "key", rows, new.key.dtype), new.key),
            value=both(self._of_sequences(before, "value", rows, new.value.dtype), new.value),
            query_positions=rows.positions,
            key_positions=both(held, new.positions),
            query_segments=jnp.where(rows.is_token, document, 0),
            key_segments=both(jnp.where(is_held, document, 0), new.documents),
        )

    def _slots(self, rows: Rows) -> Array:
        assert self.state is not None
        T = self.state["position"].shape[1]
        # Of more tokens than the ring holds only the last are kept; two must not meet in one slot.
        is_kept = rows.is_token & (rows.positions >= rows.lengths[:, None] - T)
        return jnp.where(is_kept, rows.positions % T, T)
