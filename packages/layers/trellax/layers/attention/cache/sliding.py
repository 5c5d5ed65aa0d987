"""`SlidingCache`: a ring of slots, for attention that looks back no further than a window.

    attention_cfg.set(mask=SlidingWindow.default_config().set(window=4096),
                      cache=SlidingCache.default_config().set(window=4096))

Memory does not grow with the length of sequences. The token at position p lies in slot p mod T.

Axes: B batch, S sequence of this call, R rows of a group, T slots of the ring, K kv heads, H head dim.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.layers.attention.cache.contiguous import BufferedCache
from trellax.layers.attention.cache.interface import Rows, combined, only_new, rows_of
from trellax.layers.attention.cache.views import CacheView, GroupedView, PagedView
from trellax.layers.attention.tokens import TokenInfo
from trellax.layers.module import structural


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
        self._stored(key, value, rows)
        views = [self._view(before, r, r.part_of(key), r.part_of(value)) for r in rows]
        return combined(tokens, views)

    def _view(self, before: dict[str, Any], rows: Rows, key: Array, value: Array) -> CacheView:
        """Returns the ring as it was before the call, and the call's own tokens after it."""
        held = before["position"]
        held = held if rows.block_table is None else jnp.take(held, rows.slots, axis=0, mode="clip")
        first = jnp.where(rows.is_token, rows.positions, jnp.iinfo(jnp.int32).max).min(axis=1)
        # Later positions are drafts that are written again, or of an earlier sequence in the slot.
        is_held = (held >= 0) & (held < first[:, None])
        both = lambda old, new: jnp.concatenate([old, new], axis=1)
        return CacheView(
            key=both(self._of_sequences(before, "key", rows, key.dtype), key),
            value=both(self._of_sequences(before, "value", rows, value.dtype), value),
            query_positions=rows.positions,
            key_positions=both(held, rows.positions),
            query_segments=rows.is_token.astype(jnp.int32),
            key_segments=both(is_held, rows.is_token).astype(jnp.int32),
        )

    def _slots(self, rows: Rows) -> Array:
        assert self.state is not None
        T = self.state["position"].shape[1]
        # Of more tokens than the ring holds only the last are kept; two must not meet in one slot.
        is_kept = rows.is_token & (rows.positions >= rows.lengths[:, None] - T)
        return jnp.where(is_kept, rows.positions % T, T)
