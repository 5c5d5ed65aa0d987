"""Attention cores: from queries, keys and values to what each query reads.

    attention_cfg.core.set(soft_cap=50.0, implementation="xla")

Axes: B batch, S query sequence, T key sequence, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.kernels.attention import ScoreBias, attention
from trellax.kernels.masks import Mask
from trellax.layers.attention.cache import CacheView
from trellax.layers.base import BaseLayer
from trellax.layers.module import structural


class AttentionCore(BaseLayer):
    """Interface of what mixes values."""

    class Config(BaseLayer.Config):
        """
        Fields:
            num_heads: query heads; the attention layer provides it.
            num_kv_heads: heads of keys and values; the attention layer provides it.
            head_dim: size of a head; the attention layer provides it.
        """

        num_heads: Required[int] = REQUIRED
        num_kv_heads: Required[int] = REQUIRED
        head_dim: Required[int] = REQUIRED

    def forward(
        self,
        query: Float[Array, "B S N H"],
        view: CacheView,
        *,
        mask: Mask,
        bias: ScoreBias | None = None,
    ) -> Float[Array, "B S N H"]:
        """Returns what each query reads.

        Args:
            query: position-encoded queries.
            view: keys and values that there are, and where they and the queries stand.
            mask: which of them a query may attend to.
            bias: what is added to the scores.
        """
        raise NotImplementedError

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        """Scores and context, 2·2·N·H·T, for T = all `sequence_length` keys.

        That is the usual convention (PaLM, 2204.02311, appendix B): what a causal mask or a window saves
        is not discounted.
        """
        return 4.0 * self.cfg.num_heads * self.cfg.head_dim * sequence_length


class SoftmaxAttention(AttentionCore):
    """softmax(scale · QKᵀ + bias, masked) V (1706.03762), by the best kernel that serves the call."""

    class Config(AttentionCore.Config):
        """
        Fields:
            scale: factor of the scores, None for head_dim^-0.5.
            soft_cap: scores become cap·tanh(score / cap), as in Gemma 2; None for no cap.
            implementation: kernels to try in order or the one that must serve; None for the best.
        """

        scale: float | None = None
        soft_cap: float | None = None
        implementation: str | tuple[str, ...] | None = None

    def forward(
        self,
        query: Float[Array, "B S N H"],
        view: CacheView,
        *,
        mask: Mask,
        bias: ScoreBias | None = None,
    ) -> Float[Array, "B S N H"]:
        return attention(
            query,
            view.key,
            view.value,
            mask=mask,
            query_positions=view.query_positions,
            key_positions=view.key_positions,
            query_segments=view.query_segments,
            key_segments=view.key_segments,
            bias=bias,
            scale=self.cfg.scale,
            soft_cap=self.cfg.soft_cap,
            implementation=self.cfg.implementation,
        )
