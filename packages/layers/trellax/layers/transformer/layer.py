"""Transformer layers: attention and feed-forward, each added to a residual stream.

    TransformerLayer.default_config().set(input_dim=4096)

Where a norm stands is told by the slot that it is in, and any combination of slots is a structure:

    slot (of `attention`; same for `feed_forward`)    norms
    attention_norm                                    what the sublayer reads
    attention_output_norm                             what it adds
    attention_residual_norm                           the stream after the addition

Pre-norm (the default) fills the first (2002.04745), post-norm the last (1706.03762), sandwich or hybrid
the first two (Gemma 2, 2408.00118), OLMo 2 the second (2501.00656).

Axes: B batch, S sequence, D model.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.layers.attention import Attention, TokenInfo
from trellax.layers.base import BaseLayer
from trellax.layers.dropout import Dropout
from trellax.layers.feed_forward import FeedForwardLayer
from trellax.layers.module import Module
from trellax.layers.norm import RMSNorm

NORM_SLOTS = ("norm", "output_norm", "residual_norm")


class BaseTransformerLayer(BaseLayer):
    """The parts of a transformer layer; subclasses say how they are connected."""

    attention: BaseLayer
    feed_forward: BaseLayer
    dropout: BaseLayer

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dim: D, size of the residual stream.
            attention: the sublayer that mixes tokens; called with the stream and the `TokenInfo`.
            feed_forward: the sublayer that works on each token alone; called with the stream.
            attention_norm: of what attention reads; None for no norm, here and below.
            feed_forward_norm: of what feed-forward reads.
            dropout: applied to what each sublayer adds to the stream.
        """

        input_dim: Required[int] = REQUIRED
        attention: BaseLayer.Config = Attention.default_config()
        feed_forward: BaseLayer.Config = FeedForwardLayer.default_config()
        attention_norm: BaseLayer.Config | None = RMSNorm.default_config()
        feed_forward_norm: BaseLayer.Config | None = RMSNorm.default_config()
        dropout: BaseLayer.Config = Dropout.default_config()

        def derive(self) -> None:
            super().derive()
            for name in self.sized_children():
                self.provide(getattr(self, name), input_dim=self.input_dim)

        def sized_children(self) -> tuple[str, ...]:
            """Names of the children that are told the stream's size."""
            return ("attention", "feed_forward", "attention_norm", "feed_forward_norm")

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        for child in (*cfg.sized_children(), "dropout"):
            self.add_child(child, getattr(cfg, child))

    def forward(self, x_BSD: Float[Array, "B S D"], tokens: TokenInfo) -> Float[Array, "B S D"]:
        """Returns the residual stream after this layer, same shape and dtype.

        Args:
            x_BSD: the residual stream.
            tokens: where its tokens stand.
        """
        raise NotImplementedError

    def _normed(self, slot: str, x_BSD: Array) -> Array:
        """Applies the norm in a slot, if there is one."""
        return self.children[slot](x_BSD) if slot in self.children else x_BSD

    def _stream(self, x_BSD: Array) -> Array:
        return self.constrain(x_BSD, ("batch", "residual_length", "act_embed"))


class TransformerLayer(BaseTransformerLayer):
    """Attention, then feed-forward, each with a residual connection."""

    class Config(BaseTransformerLayer.Config):
        """
        Fields:
            attention_output_norm: of what attention adds to the stream.
            feed_forward_output_norm: of what feed-forward adds.
            attention_residual_norm: of the stream after attention.
            feed_forward_residual_norm: of the stream after feed-forward.
        """

        attention_output_norm: BaseLayer.Config | None = None
        feed_forward_output_norm: BaseLayer.Config | None = None
        attention_residual_norm: BaseLayer.Config | None = None
        feed_forward_residual_norm: BaseLayer.Config | None = None

        def sized_children(self) -> tuple[str, ...]:
            sublayers = ("attention", "feed_forward")
            return (*sublayers, *(f"{s}_{slot}" for s in sublayers for slot in NORM_SLOTS))

    def forward(self, x_BSD: Float[Array, "B S D"], tokens: TokenInfo) -> Float[Array, "B S D"]:
        x_BSD = self.tag(self._stream(x_BSD), "block_input")
        x_BSD = self._residual("attention", x_BSD, tokens)
        return self._residual("feed_forward", x_BSD)

    def _residual(self, sublayer: str, x_BSD: Array, *args: Any) -> Array:
        y_BSD = self.children[sublayer](self._normed(f"{sublayer}_norm", x_BSD), *args)
        y_BSD = self.dropout(self._normed(f"{sublayer}_output_norm", y_BSD))
        return self._normed(f"{sublayer}_residual_norm", self._stream(x_BSD + y_BSD))


class ParallelTransformerLayer(BaseTransformerLayer):
    """Attention and feed-forward read the same stream and are added together (GPT-J, 2021).

    Without `feed_forward_norm` both read through `attention_norm`, as in GPT-J and PaLM (2204.02311);
    with it each has its own, as in GPT-NeoX (2204.06745).
    """

    class Config(BaseTransformerLayer.Config):
        """Pre-norm only: there is one addition."""

        feed_forward_norm = None

    def forward(self, x_BSD: Float[Array, "B S D"], tokens: TokenInfo) -> Float[Array, "B S D"]:
        x_BSD = self.tag(self._stream(x_BSD), "block_input")
        normed_BSD = self._normed("attention_norm", x_BSD)
        own_norm = "feed_forward_norm" in self.children
        read_BSD = self._normed("feed_forward_norm", x_BSD) if own_norm else normed_BSD
        y_BSD = self.attention(normed_BSD, tokens) + self.feed_forward(read_BSD)
        return self._stream(x_BSD + self.dropout(y_BSD))
