"""Attention cores: from queries, keys and values to what each query reads.

    attention_cfg.core.set(soft_cap=50.0, implementation="xla")

Axes: B batch, S query sequence, T key sequence, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.kernels.attention import ScoreBias
from trellax.kernels.masks import Mask
from trellax.layers.attention.cache import CacheView, GroupedView, PagedView
from trellax.layers.attention.context import AllGatherContext, ContextParallelism
from trellax.layers.attention.reading import attend
from trellax.layers.base import BaseLayer
from trellax.layers.module import Module, structural


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
        view: CacheView | PagedView | GroupedView,
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
    """softmax(scale · QKᵀ + bias, masked) V (1706.03762), by the best kernel that serves the call, on each device."""

    class Config(AttentionCore.Config):
        """
        Fields:
            scale: factor of the scores, None for head_dim^-0.5.
            soft_cap: scores become cap·tanh(score / cap), as in Gemma 2; None for no cap.
            implementation: kernels to try in order or the one that must serve; None for the best.
            context: how devices that hold parts of a row see the whole; not asked where rows are whole.
        """

        scale: float | None = None
        soft_cap: float | None = None
        implementation: str | tuple[str, ...] | None = None
        context: ContextParallelism.Config = AllGatherContext.default_config()

        def derive(self) -> None:
            super().derive()
            self.provide(self.context, num_heads=self.num_heads, num_kv_heads=self.num_kv_heads)

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        self.context_method = cfg.context.instantiate()

    def forward(
        self,
        query: Float[Array, "B S N H"],
        view: CacheView | PagedView | GroupedView,
        *,
        mask: Mask,
        bias: ScoreBias | None = None,
    ) -> Float[Array, "B S N H"]:
        options = {
            "mask": mask,
            "scale": self.cfg.scale,
            "soft_cap": self.cfg.soft_cap,
            "implementation": self.cfg.implementation,
        }
        return attend(query, view, bias, context=self.context_method, options=options)
