"""Position encodings: how attention learns the order of tokens.

    attention_cfg.set(positions=AlibiPositions.default_config())

All have one contract, so that any can stand in for any other: they are given queries and *new* keys and
return them encoded, with a score bias if the encoding is one. What is returned for a key depends on that
key's own position only, so it can be cached.

Axes: B batch, S sequence, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, Required
from trellax.kernels.attention import AlibiBias, ScoreBias
from trellax.layers.base import BaseLayer


class Positioned(NamedTuple):
    """Encoded queries and keys, and what to add to their scores.

    Attributes:
        query: queries that know their positions.
        key: keys that know theirs.
        bias: a rule on positions, None for nothing.
    """

    query: Float[Array, "B S N H"]
    key: Float[Array, "B S K H"]
    bias: ScoreBias | None = None


class Positions(BaseLayer):
    """Interface of position encodings."""

    class Config(BaseLayer.Config):
        """
        Fields:
            num_heads: query heads; the attention layer provides it.
            head_dim: size of a head; the attention layer provides it.
        """

        num_heads: Required[int] = REQUIRED
        head_dim: Required[int] = REQUIRED

    def forward(
        self,
        query: Float[Array, "B S N H"],
        key: Float[Array, "B S K H"],
        query_positions: Int[Array, "B S"] | None,
        key_positions: Int[Array, "B S"] | None,
    ) -> Positioned:
        """Encodes the positions of queries and of the keys that come with them.

        Args:
            query: queries, any float dtype; returned in it.
            key: keys of the same call, before they are cached.
            query_positions: int32 places of the queries; None means 0 … S-1.
            key_positions: int32 places of the keys; None means 0 … S-1.
        """
        raise NotImplementedError


class NoPositions(Positions):
    """No encoding: a causal mask alone tells the order (NoPE, 2305.19466)."""

    def forward(
        self,
        query: Float[Array, "B S N H"],
        key: Float[Array, "B S K H"],
        query_positions: Int[Array, "B S"] | None,
        key_positions: Int[Array, "B S"] | None,
    ) -> Positioned:
        return Positioned(query, key)


class AlibiPositions(Positions):
    """Attention with linear biases: scores fall with distance, at a slope for each head (2108.12409)."""

    def forward(
        self,
        query: Float[Array, "B S N H"],
        key: Float[Array, "B S K H"],
        query_positions: Int[Array, "B S"] | None,
        key_positions: Int[Array, "B S"] | None,
    ) -> Positioned:
        return Positioned(query, key, AlibiBias.for_heads(self.cfg.num_heads))


class SinusoidalPositions(Positions):
    """Fixed sinusoids (1706.03762, 3.5) added to queries and keys, not to values.

    The place is that of position-infused attention (Shortformer, 2012.15832), a layer at a time, here
    after the projections; so keys can be cached and the residual stream carries no positions.
    """

    class Config(Positions.Config):
        """
        Fields:
            max_wavelength: longest period over 2π, in tokens.
        """

        max_wavelength: float = 10_000.0

    def forward(
        self,
        query: Float[Array, "B S N H"],
        key: Float[Array, "B S K H"],
        query_positions: Int[Array, "B S"] | None,
        key_positions: Int[Array, "B S"] | None,
    ) -> Positioned:
        return Positioned(self._infused(query, query_positions), self._infused(key, key_positions))

    def _infused(self, x_BSNH: Array, positions_BS: Array | None) -> Array:
        H = self.cfg.head_dim
        frequencies = self.cfg.max_wavelength ** -(np.arange(0, H, 2) / H)
        angles_BSR = position_angles(positions_BS, x_BSNH.shape[1], frequencies)
        table_BSH = jnp.concatenate([jnp.sin(angles_BSR), jnp.cos(angles_BSR)], axis=-1)[..., :H]
        return x_BSNH + table_BSH[:, :, None].astype(x_BSNH.dtype)


def position_angles(
    positions_BS: Int[Array, "B S"] | None, length: int, frequencies: np.ndarray
) -> Float[Array, "#B S R"]:
    """Returns position times frequency, float32.

    Args:
        positions_BS: places; None means 0 … length-1, one row for the whole batch.
        length: number of tokens S.
        frequencies: radians a token, [R].
    """
    if positions_BS is None:
        positions_BS = jnp.arange(length)[None]
    return positions_BS[..., None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
