"""Where keys and values wait while a sequence is decoded: `ContiguousCache`, `NoCache`.

    state = model.init_state(batch_size=8, max_length=2048)
    logits, out = functional(model, params=params, state=state, args=(ids_BS, tokens), ...)

A cache is a child of the attention layer, so its layout is a config and no ancestor knows of it. The same
`forward` trains (there is no state: what comes in goes out, at no cost), prefills (S tokens) and decodes
(one token, or a few to be verified).

Axes: B batch, S sequence of this call, T slots of the cache, K kv heads, H head dim.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, DType, Required
from trellax.layers.attention.tokens import TokenInfo
from trellax.layers.base import BaseLayer
from trellax.layers.module import structural


class CacheView(NamedTuple):
    """Keys and values that the queries of one call may read, and where both stand.

    Attributes:
        key: position-encoded keys.
        value: values.
        query_positions: int32 places of the queries; None (with `key_positions`) where array order is
            document order and T = S.
        key_positions: int32 places of the keys.
        query_segments: int32 documents of the queries, 0 for padding; None if there is but one.
        key_segments: int32 documents of the keys, 0 for padding and empty slots.
    """

    key: Float[Array, "B T K H"]
    value: Float[Array, "B T K H"]
    query_positions: Int[Array, "#B S"] | None = None
    key_positions: Int[Array, "#B T"] | None = None
    query_segments: Int[Array, "#B S"] | None = None
    key_segments: Int[Array, "#B T"] | None = None


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
    ) -> CacheView:
        """Stores the keys and values of `tokens` and returns what their queries may read.

        Args:
            key: position-encoded keys of the new tokens.
            value: their values.
            tokens: where they stand.

        Raises:
            ValueError: while decoding, if `tokens` has no positions.
        """
        raise NotImplementedError


class NoCache(AttentionCache):
    """Queries read the tokens of their own call only, as in an encoder. Carries no state."""

    def forward(
        self, key: Float[Array, "B S K H"], value: Float[Array, "B S K H"], tokens: TokenInfo
    ) -> CacheView:
        return _only_new(key, value, tokens)


class ContiguousCache(AttentionCache):
    """One buffer of `max_length` slots a sequence; the token at position p lies in slot p.

    A row holds one sequence, and rows may stand at different positions. Rows of a call that have fewer
    tokens than others are padded with segment 0, left or right: padding is not written. To write a
    position again replaces it, so drafts that were refused are simply written over. Tokens past
    `max_length` are dropped, and what they would have said is lost: the caller watches the length.
    """

    class Config(AttentionCache.Config):
        """
        Fields:
            dtype: type that keys and values are stored in, None for `param_dtype`.
        """

        dtype: DType | None = None

    @structural
    def init_state(self, *, batch_size: int, max_length: int) -> dict[str, Any]:
        cfg = self.cfg
        shape = (batch_size, max_length, cfg.num_kv_heads, cfg.head_dim)
        dtype = cfg.dtype or cfg.param_dtype
        return {
            "key": jnp.zeros(shape, dtype),
            "value": jnp.zeros(shape, dtype),
            "written": jnp.zeros((batch_size, max_length), jnp.bool_),
        }

    def forward(
        self, key: Float[Array, "B S K H"], value: Float[Array, "B S K H"], tokens: TokenInfo
    ) -> CacheView:
        if not self.state:
            return _only_new(key, value, tokens)
        if tokens.positions_BS is None:
            raise ValueError(
                f"{self.path()}: decoding needs the tokens' positions, which say where in the cache "
                f"they go; use TokenInfo.contiguous(batch_size, length, start=...)."
            )
        is_token_BS = _is_token(tokens)
        num_slots = self.state["written"].shape[1]
        slots_BS = jnp.where(is_token_BS, tokens.positions_BS, num_slots)
        written_BT = self._write("written", slots_BS, jnp.ones_like(is_token_BS))
        return CacheView(
            key=self._write("key", slots_BS, key).astype(key.dtype),
            value=self._write("value", slots_BS, value).astype(value.dtype),
            query_positions=tokens.positions_BS,
            key_positions=jnp.arange(num_slots, dtype=jnp.int32)[None],
            query_segments=is_token_BS.astype(jnp.int32),
            key_segments=written_BT.astype(jnp.int32),
        )

    def _write(self, name: str, slots_BS: Array, new: Array) -> Array:
        """Returns the entry `name` of the state with `new` in these slots; others are dropped."""
        assert self.state is not None
        buffer = jax.vmap(lambda row, slots, x: row.at[slots].set(x, mode="drop"))(
            self.state[name], slots_BS, new.astype(self.state[name].dtype)
        )
        if buffer.ndim == 4:
            buffer = self.constrain(buffer, ("batch", None, "act_kv_heads", "act_head_dim"))
        self.add_state_update(name, buffer)
        return buffer


def _only_new(key: Array, value: Array, tokens: TokenInfo) -> CacheView:
    segments_BS = tokens.segment_ids_BS
    return CacheView(key, value, query_segments=segments_BS, key_segments=segments_BS)


def _is_token(tokens: TokenInfo) -> Array:
    if tokens.segment_ids_BS is None:
        return jnp.ones(tokens.positions_BS.shape, jnp.bool_)  # type: ignore[union-attr]
    return tokens.segment_ids_BS != 0
