"""From the residual stream to queries, keys and values.

    attention_cfg.set(projection=FusedQKVProjection.default_config())

Axes: B batch, S sequence, D model, N heads, K kv heads, G query heads a kv head (N = K·G), H head dim.
Query head n reads kv head n // G.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.layers.base import BaseLayer
from trellax.layers.linear import Projection
from trellax.layers.module import Module


class QueryKeyValue(NamedTuple):
    """What an attention layer compares and reads."""

    query: Float[Array, "B S N H"]
    key: Float[Array, "B S K H"]
    value: Float[Array, "B S K H"]


class AttentionProjection(BaseLayer):
    """Interface: makes queries, keys and values."""

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dim: D; the attention layer provides it.
            num_heads: query heads; the attention layer provides it.
            num_kv_heads: heads of keys and values; the attention layer provides it.
            head_dim: size of a head; the attention layer provides it.
        """

        input_dim: Required[int] = REQUIRED
        num_heads: Required[int] = REQUIRED
        num_kv_heads: Required[int] = REQUIRED
        head_dim: Required[int] = REQUIRED

    def forward(self, x_BSD: Float[Array, "B S D"]) -> QueryKeyValue:
        """Returns queries, keys and values in the input's dtype, without positions."""
        raise NotImplementedError


class QKVProjection(AttentionProjection):
    """Three maps. Children `query` D → (N, H), `key` and `value` D → (K, H)."""

    query: BaseLayer
    key: BaseLayer
    value: BaseLayer

    class Config(AttentionProjection.Config):
        """
        Fields:
            query: makes queries.
            key: makes keys.
            value: makes values.
        """

        query: BaseLayer.Config = Projection.default_config()
        key: BaseLayer.Config = Projection.default_config()
        value: BaseLayer.Config = Projection.default_config()

        def derive(self) -> None:
            super().derive()
            query, kv = (self.num_heads, self.head_dim), (self.num_kv_heads, self.head_dim)
            self._provide_dims(self.query, query, "heads")
            self._provide_dims(self.key, kv, "kv_heads")
            self._provide_dims(self.value, kv, "kv_heads")

        def _provide_dims(
            self, child: BaseLayer.Config, output_dims: tuple[int, int], heads: str
        ) -> None:
            axes = ("embed", heads, "head_dim")
            self.provide(child, input_dims=(self.input_dim,), output_dims=output_dims, axes=axes)

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        self.add_child("query", cfg.query)
        self.add_child("key", cfg.key)
        self.add_child("value", cfg.value)

    def forward(self, x_BSD: Float[Array, "B S D"]) -> QueryKeyValue:
        return QueryKeyValue(self.query(x_BSD), self.key(x_BSD), self.value(x_BSD))


class FusedQKVProjection(AttentionProjection):
    """One matrix multiplication. Child `fused` D → (K, G + 2, H).

    A kv head's queries, key and value lie together, so that sharding over kv heads splits all three alike.
    """

    fused: BaseLayer

    class Config(AttentionProjection.Config):
        """
        Fields:
            fused: makes all three.
        """

        fused: BaseLayer.Config = Projection.default_config()

        def derive(self) -> None:
            super().derive()
            group = self.num_heads // self.num_kv_heads
            self.provide(
                self.fused,
                input_dims=(self.input_dim,),
                output_dims=(self.num_kv_heads, group + 2, self.head_dim),
                axes=("embed", "kv_heads", None, "head_dim"),
            )

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        self.add_child("fused", cfg.fused)

    def forward(self, x_BSD: Float[Array, "B S D"]) -> QueryKeyValue:
        y_BSKXH = self.fused(x_BSD)  # X: the G queries, the key, the value of a kv head.
        B, S = x_BSD.shape[:2]
        query = y_BSKXH[:, :, :, :-2].reshape(B, S, self.cfg.num_heads, self.cfg.head_dim)
        return QueryKeyValue(query, y_BSKXH[:, :, :, -2], y_BSKXH[:, :, :, -1])
