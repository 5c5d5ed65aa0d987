"""`Attention`: multi-head, grouped-query and multi-query self-attention out of replaceable parts.

    Attention.default_config().set(input_dim=4096, num_heads=32, num_kv_heads=8)

The layer itself only wires its children, each of which is one decision: how queries, keys and values are
projected, how positions are told, what may be seen, what attention computes, where keys wait while
decoding. It agrees with them on inputs and outputs, so each can be replaced alone.

Axes: B batch, S query sequence, T key sequence, D model, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.kernels.masks import Mask, SegmentMask
from trellax.layers.attention.cache import AttentionCache, ContiguousCache
from trellax.layers.attention.core import AttentionCore, SoftmaxAttention
from trellax.layers.attention.mask import AttentionMask, Causal
from trellax.layers.attention.positions import Positions
from trellax.layers.attention.projection import AttentionProjection, QKVProjection
from trellax.layers.attention.rotary import RotaryPositions
from trellax.layers.attention.tokens import TokenInfo
from trellax.layers.base import BaseLayer
from trellax.layers.linear import Projection
from trellax.layers.module import Module


class Attention(BaseLayer):
    """Self-attention over a row of tokens."""

    projection: AttentionProjection
    query_norm: BaseLayer | None
    key_norm: BaseLayer | None
    positions: Positions
    core: AttentionCore
    cache: AttentionCache
    output: BaseLayer

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dim: D, of input and output.
            num_heads: query heads N.
            num_kv_heads: heads of keys and values K, a divisor of N; None for N (multi-head), 1 is
                multi-query (1911.02150), others grouped-query (2305.13245).
            head_dim: H, None for input_dim / num_heads.
            projection: from input to queries, keys and values.
            query_norm: applied to each head's query before positions, as in Qwen3; None for no norm.
            key_norm: same for keys.
            positions: how queries and keys learn where they stand.
            mask: what a token may attend to. Packed documents are kept apart in any case.
            core: what mixes the values.
            cache: where keys and values wait while decoding.
            output: from what the heads read to the output.
        """

        input_dim: Required[int] = REQUIRED
        num_heads: Required[int] = REQUIRED
        num_kv_heads: int | None = None
        head_dim: int | None = None
        projection: AttentionProjection.Config = QKVProjection.default_config()
        query_norm: BaseLayer.Config | None = None
        key_norm: BaseLayer.Config | None = None
        positions: Positions.Config = RotaryPositions.default_config()
        mask: AttentionMask.Config = Causal.default_config()
        core: AttentionCore.Config = SoftmaxAttention.default_config()
        cache: AttentionCache.Config = ContiguousCache.default_config()
        output: BaseLayer.Config = Projection.default_config()

        def derive(self) -> None:
            super().derive()
            if self.num_kv_heads is None:
                self.num_kv_heads = self.num_heads
            if self.head_dim is None:
                self.head_dim = _split(self.input_dim, self.num_heads)
            query: dict[str, Any] = {"num_heads": self.num_heads, "head_dim": self.head_dim}
            kv: dict[str, Any] = {"num_kv_heads": self.num_kv_heads, "head_dim": self.head_dim}
            self.provide(self.projection, input_dim=self.input_dim, **query | kv)
            self.provide(self.query_norm, input_dim=self.head_dim)
            self.provide(self.key_norm, input_dim=self.head_dim)
            self.provide(self.positions, **query)
            self.provide(self.core, **query | kv)
            self.provide(self.cache, **kv)
            self.provide(
                self.output,
                input_dims=(self.num_heads, self.head_dim),
                output_dims=(self.input_dim,),
                axes=("heads", "head_dim", "embed"),
            )

        def check(self) -> None:
            super().check()
            assert self.num_kv_heads is not None
            if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
                raise ValueError(
                    f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}; "
                    f"each kv head serves the same number of query heads."
                )

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        self.mask = cfg.mask.instantiate()
        for child in (
            "projection",
            "query_norm",
            "key_norm",
            "positions",
            "core",
            "cache",
            "output",
        ):
            self.add_child(child, getattr(cfg, child))

    def forward(self, x_BSD: Float[Array, "B S D"], tokens: TokenInfo) -> Float[Array, "B S D"]:
        """Lets each token read from those that its mask allows.

        Args:
            x_BSD: inputs, any float dtype.
            tokens: where they stand.

        Returns:
            Outputs of the same shape and dtype. At padding they are what the output projection makes
            of zeros.
        """
        q_BSNH, k_BSKH, v_BSKH = self.projection(x_BSD)
        if self.query_norm is not None:
            q_BSNH = self.query_norm(q_BSNH)
        if self.key_norm is not None:
            k_BSKH = self.key_norm(k_BSKH)
        at_BS = tokens.positions_BS
        q_BSNH, k_BSKH, bias = self.positions(q_BSNH, k_BSKH, at_BS, at_BS)
        q_BSNH = self._named(q_BSNH, "q_proj", "act_heads")
        k_BSKH = self._named(k_BSKH, "k_proj", "act_kv_heads")
        v_BSKH = self._named(v_BSKH, "v_proj", "act_kv_heads")
        view = self.cache(k_BSKH, v_BSKH, tokens)
        mask = self._within_documents(view.query_segments)
        context_BSNH = self.core(q_BSNH, view, mask=mask, bias=bias)
        context_BSNH = self._named(context_BSNH, "attention_context", "act_heads")
        y_BSD = self.constrain(self.output(context_BSNH), ("batch", "residual_length", "act_embed"))
        return self.tag(y_BSD, "o_proj")

    def _within_documents(self, segments_BS: Array | None) -> Mask:
        mask = self.mask.mask()
        return mask if segments_BS is None else mask & SegmentMask()

    def _named(self, x: Array, tag: str, heads: str) -> Array:
        return self.tag(self.constrain(x, ("batch", "length", heads, "act_head_dim")), tag)


def _split(input_dim: int, num_heads: int) -> int:
    if num_heads < 1 or input_dim % num_heads:
        raise ValueError(
            f"input_dim={input_dim} does not divide into num_heads={num_heads}; set head_dim."
        )
    return input_dim // num_heads
