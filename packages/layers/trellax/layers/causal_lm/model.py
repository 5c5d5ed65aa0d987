"""A causal language model: a decoder and a loss.

    model = CausalLM.default_config().set(decoder=decoder_cfg).instantiate()
    params = model.init(jax.random.key(0))
    output, collection = functional(model, params=params, args=(batch,), is_training=True)

Axes: B batch, S sequence, R rows that are drawn from, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.layers.attention import TokenInfo
from trellax.layers.base import BaseLayer
from trellax.layers.causal_lm.decoder import Decoder
from trellax.layers.causal_lm.loss import CrossEntropyLoss, LossOutput
from trellax.layers.module import Module


class CausalLM(BaseLayer):
    """Predicts each token from those before it."""

    decoder: Any  # Has the methods and properties of `Decoder`.
    loss: BaseLayer

    class Config(BaseLayer.Config):
        """
        Fields:
            decoder: from token ids to hidden states and logits.
            loss: from hidden states, head and targets.
        """

        decoder: BaseLayer.Config = Decoder.default_config()
        loss: BaseLayer.Config = CrossEntropyLoss.default_config()

    def __init__(self, cfg: Config, *, name: str = "root", parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        self.add_child("decoder", cfg.decoder)
        self.add_child("loss", cfg.loss)

    def forward(self, batch: Mapping[str, Int[Array, "B S"]]) -> LossOutput:
        """Returns the loss summed over targets, and their number.

        Args:
            batch: int32 "input_ids" and "target_ids" (-1: no target here); optionally "positions"
                (without them 0 … S-1) and "segment_ids" (without them each row is one document).
        """
        tokens = TokenInfo(batch.get("positions"), batch.get("segment_ids"))

        def loss(hidden_BSD: Array, target_ids_BS: Array) -> LossOutput:
            return self.loss(
                hidden_BSD,
                self.decoder.unembedding(),
                target_ids_BS,
                soft_cap=self.decoder.logit_soft_cap,
            )

        return self.decoder.forward_then(
            batch["input_ids"], tokens, rows=(batch["target_ids"],), then=loss
        )

    def logits(
        self,
        input_ids_BS: Int[Array, "B S"],
        tokens: TokenInfo,
        *,
        at_R: Int[Array, " R"] | None = None,
    ) -> Float[Array, "B S V"] | Float[Array, "1 R V"]:
        """Returns the logits of the token after each, in float32.

        Args:
            input_ids_BS: tokens.
            tokens: where they stand.
            at_R: of a flat batch [1, S] the entries whose logits are wanted; None for all.
        """
        hidden_BSD = self.decoder(input_ids_BS, tokens)
        if at_R is not None:
            hidden_BSD = jnp.take(hidden_BSD, at_R, axis=1)
        return self.decoder.logits(hidden_BSD)

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.decoder.vocab_size
