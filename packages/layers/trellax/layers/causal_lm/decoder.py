"""A decoder: from token ids to hidden states, and from those to logits.

    decoder = Decoder.default_config().set(vocab_size=32_000, dim=4096, stack=stack_cfg)

Axes: B batch, S sequence, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, Required
from trellax.layers.attention import TokenInfo
from trellax.layers.base import BaseLayer, Prepare
from trellax.layers.causal_lm.head import Head, LmHead
from trellax.layers.dropout import Dropout
from trellax.layers.embedding import Embedding, Unembedding
from trellax.layers.module import Module, structural
from trellax.layers.norm import RMSNorm
from trellax.layers.stack import ScannedStack, Stack, resumed


class Decoder(BaseLayer):
    """Embedding, stack, norm and head."""

    embedding: BaseLayer
    position_embedding: BaseLayer | None
    dropout: BaseLayer
    stack: Stack
    output_norm: BaseLayer | None
    lm_head: BaseLayer | None

    class Config(BaseLayer.Config):
        """
        Fields:
            vocab_size: V.
            dim: D.
            logit_soft_cap: c in c · tanh(logit / c) (Gemma 2, arXiv:2408.00118), or None.
            embedding: vectors of tokens.
            position_embedding: vectors of positions, added to those of tokens; None where attention
                encodes positions.
            dropout: of the embedded input.
            stack: the layers, called with (x_BSD, tokens).
            output_norm: norm before the head; None for none.
            lm_head: makes logits; None for the transposed embedding (tied).
        """

        vocab_size: Required[int] = REQUIRED
        dim: Required[int] = REQUIRED
        logit_soft_cap: float | None = None
        embedding: BaseLayer.Config = Embedding.default_config()
        position_embedding: BaseLayer.Config | None = None
        dropout: BaseLayer.Config = Dropout.default_config()
        stack: Stack.Config = ScannedStack.default_config()
        output_norm: BaseLayer.Config | None = RMSNorm.default_config()
        lm_head: BaseLayer.Config | None = LmHead.default_config()

        def derive(self) -> None:
            super().derive()
            D, V = self.dim, self.vocab_size
            self.provide(self.embedding, num_embeddings=V, dim=D)
            self.provide(self.position_embedding, dim=D)
            self.provide(self.stack, input_dim=D)
            self.provide(self.output_norm, input_dim=D)
            self.provide(self.lm_head, input_dim=D, vocab_size=V)

    def __init__(self, cfg: Config, *, name: str = "decoder", parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        for child in (
            "embedding",
            "position_embedding",
            "dropout",
            "stack",
            "output_norm",
            "lm_head",
        ):
            self.add_child(child, getattr(cfg, child))

    def forward(self, input_ids_BS: Int[Array, "B S"], tokens: TokenInfo) -> Float[Array, "B S D"]:
        """Returns the hidden states that the head sees."""
        return self._finished(self.stack(self._embedded(input_ids_BS, tokens), tokens))

    @structural
    def forward_then(
        self,
        input_ids_BS: Int[Array, "B S"],
        tokens: TokenInfo,
        *,
        rows: tuple[Any, ...] = (),
        then: Callable[..., Any],
    ) -> Any:
        """Returns `then(self(input_ids_BS, tokens), *rows)`, possibly as a sum over parts of the batch.

        Args:
            input_ids_BS: tokens.
            tokens: where they stand.
            rows: trees of arrays `[B, ...]` that `then` reads, such as targets.
            then: see `Stack.forward_then`; it runs in the caller's context.
        """
        if self.cfg.remat is not None:
            return then(self(input_ids_BS, tokens), *rows)  # It is recomputed as a whole.
        return self.hidden_then(input_ids_BS, tokens, rows, resumed(then))

    def hidden_then(
        self,
        input_ids_BS: Int[Array, "B S"],
        tokens: TokenInfo,
        rows: tuple[Any, ...],
        then: Callable[..., Any],
    ) -> Any:
        """Does the work of `forward_then`, within the decoder's own call."""
        return self.stack.forward_then(
            self._embedded(input_ids_BS, tokens),
            tokens,
            rows=rows,
            then=lambda x_BSD, *rows: then(self._finished(x_BSD), *rows),
        )

    def _embedded(self, input_ids_BS: Array, tokens: TokenInfo) -> Array:
        """Returns what goes into the stack."""
        x_BSD = self.embedding(input_ids_BS)
        if self.position_embedding is not None:
            positions_BS = tokens.positions_BS
            if positions_BS is None:
                positions_BS = jnp.arange(input_ids_BS.shape[1])[None]
            x_BSD += self.position_embedding(positions_BS).astype(x_BSD.dtype)
        return self.constrain(self.dropout(x_BSD), ("batch", "residual_length", "act_embed"))

    def _finished(self, x_BSD: Array) -> Array:
        """Returns what comes out of the stack as the head sees it."""
        return x_BSD if self.output_norm is None else self.output_norm(x_BSD)

    @structural
    def prepared(self, params: dict[str, Any], prepare: Prepare) -> dict[str, Any]:
        prepared = super().prepared(params, prepare)
        if self.lm_head is None:
            prepared["embedding"] = self._head.prepared_head(prepared["embedding"], prepare)
        return prepared

    def logits(self, hidden_BSD: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """Returns the logits of the token after each, in float32."""
        logits_BSV = self._head.attend(hidden_BSD)
        cap = self.cfg.logit_soft_cap
        if cap is not None:
            logits_BSV = cap * jnp.tanh(logits_BSV / cap)
        return self.constrain(logits_BSV, ("batch", "length", "act_vocab"))

    def unembedding(self) -> Unembedding:
        """Returns the weight that `logits` multiplies with."""
        return self._head.unembedding()

    @property
    def logit_soft_cap(self) -> float | None:
        """What `logits` are capped by."""
        return self.cfg.logit_soft_cap

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.cfg.vocab_size

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        """Returns the children's FLOPs and those of the head: 2 · D · V."""
        below = super().forward_flops_per_token(sequence_length)
        return below + self._head.attend_flops_per_token()

    @property
    def _head(self) -> Head:
        return cast(Head, self.embedding if self.lm_head is None else self.lm_head)
