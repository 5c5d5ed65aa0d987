"""`AttentionCache`: the interface of all layouts, and `NoCache`.

    state = model.init_state(batch_size=8, max_length=2048)
    logits, out = functional(model, params=params, state=state, args=(ids_BS, tokens), ...)

A cache is a child of the attention layer, so its layout is a config and no ancestor knows of it. The same
`forward` trains (there is no state: what comes in goes out, at no cost), prefills (S tokens) and decodes
(one token, or a few to be verified).

Axes: B batch, S sequence of this call, R rows of a group, P pages of a row at most, K kv heads, H head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from trellax.config import REQUIRED, Required
from trellax.layers.attention.cache.views import CacheView, GroupedView, PagedView
from trellax.layers.attention.tokens import TokenInfo
from trellax.layers.base import BaseLayer


class Rows(NamedTuple):
    """The rows of one group, whatever batch they came in.

    Attributes:
        start: the first of them in the flat batch.
        slots: place of each row's sequence in the state.
        block_table: its pages; None in a batch without groups, whose rows have none.
        positions: places of the tokens.
        is_token: False for padding.
    """

    start: int
    slots: Int[Array, " R"]
    block_table: Int[Array, "R P"] | None
    positions: Int[Array, "R S"]
    is_token: Bool[Array, "R S"]

    @property
    def lengths(self) -> Int[Array, " R"]:
        """Keys of each row that are written once this call's are."""
        return jnp.where(self.is_token, self.positions + 1, 0).max(axis=1)

    def part_of(self, x: Shaped[Array, "B S *dims"]) -> Shaped[Array, "R S *dims"]:
        """Returns what belongs to these rows of an array of the whole batch."""
        flat = x.reshape(-1, *x.shape[2:])[self.start : self.start + self.positions.size]
        return flat.reshape(*self.positions.shape, *x.shape[2:])


class AttentionCache(BaseLayer):
    """Interface: takes the keys and values of new tokens, returns all that there are."""

    class Config(BaseLayer.Config):
        """
        Fields:
            num_kv_heads: heads of keys and values; the attention layer provides it.
            head_dim: size of a head; the attention layer provides it.
        """

        num_kv_heads: Required[int] = REQUIRED
        head_dim: Required[int] = REQUIRED

    def forward(
        self, key: Float[Array, "B S K H"], value: Float[Array, "B S K H"], tokens: TokenInfo
    ) -> CacheView | PagedView | GroupedView:
        """Stores the keys and values of `tokens` and returns what their queries may read.

        Args:
            key: position-encoded keys of the new tokens.
            value: their values.
            tokens: where they stand.

        Raises:
            ValueError: while decoding, if `tokens` has no positions.
        """
        raise NotImplementedError

    def _check_positions(self, tokens: TokenInfo) -> None:
        if tokens.positions_BS is None:
            raise ValueError(
                f"{self.path()}: decoding needs the tokens' positions, which say where in the cache "
                f"they go; use TokenInfo.contiguous(batch_size, length, start=...)."
            )


class NoCache(AttentionCache):
    """Queries read the tokens of their own call only, as in an encoder. Carries no state."""

    def forward(
        self, key: Float[Array, "B S K H"], value: Float[Array, "B S K H"], tokens: TokenInfo
    ) -> CacheView:
        return only_new(key, value, tokens)


def only_new(key: Array, value: Array, tokens: TokenInfo) -> CacheView:
    """Returns the view of a call that carries no state."""
    segments_BS = tokens.segment_ids_BS
    return CacheView(key, value, query_segments=segments_BS, key_segments=segments_BS)


def is_token(tokens: TokenInfo) -> Bool[Array, "B S"]:
    """Returns which entries are no padding."""
    assert tokens.positions_BS is not None
    if tokens.segment_ids_BS is None:
        return jnp.ones(tokens.positions_BS.shape, jnp.bool_)
    return tokens.segment_ids_BS != 0


def rows_of(tokens: TokenInfo) -> list[Rows]:
    """Returns the rows of each group; a batch without groups is one group whose rows are its sequences."""
    positions_BS, tokens_BS = tokens.positions_BS, is_token(tokens)
    assert positions_BS is not None
    if tokens.groups is None:
        slots = jnp.arange(positions_BS.shape[0], dtype=jnp.int32)
        return [Rows(0, slots, None, positions_BS, tokens_BS)]
    found: list[Rows] = []
    start = 0
    for group in tokens.groups:
        shape = (group.num_rows, group.length)
        end = start + shape[0] * shape[1]
        positions, is_tokens = (x[0, start:end].reshape(shape) for x in (positions_BS, tokens_BS))
        found.append(Rows(start, group.slots_R, group.block_table_RP, positions, is_tokens))
        start = end
    assert start == positions_BS.shape[1], "The groups make up the flat batch."
    return found


def combined(
    tokens: TokenInfo, views: Sequence[CacheView | PagedView]
) -> CacheView | PagedView | GroupedView:
    """Returns the view of a plain batch, or those of the groups of a flat one."""
    if tokens.groups is None:
        return views[0]
    lengths = [group.length for group in tokens.groups]
    return GroupedView(tuple(zip(lengths, views, strict=True)))
