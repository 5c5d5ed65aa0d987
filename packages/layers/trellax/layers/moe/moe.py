"""A mixture of experts that drops no tokens, in place of a feed-forward layer.

    replace_config(trainer_cfg, FeedForwardLayer, MoELayer.default_config().set(num_experts=8))

Tokens are sorted by expert, each expert works on its own rows, and the results are put back in order
and added up with the router's weights.

Axes: B batch, S sequence, D model, N tokens (B · S), C choices of a token, E experts, M rows (N · C).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.config import REQUIRED, InstantiableConfig, Required
from trellax.layers.base import BaseLayer
from trellax.layers.dropout import Dropout
from trellax.layers.feed_forward import resolved_hidden_dim
from trellax.layers.module import Module, structural
from trellax.layers.moe.experts import GroupedExperts
from trellax.layers.moe.router import TopKRouter


class MoELayer(BaseLayer):
    """`Σ_c weight_c · expert_c(x)` over the experts that the router chose for a token."""

    router: BaseLayer
    experts: BaseLayer
    shared_expert: BaseLayer | None
    dropout: BaseLayer

    class Config(BaseLayer.Config):
        """
        The first four fields are those of `FeedForwardLayer`, so `replace_config` carries them over.

        Fields:
            input_dim: D, size of input and output.
            hidden_dim: F of one expert, or a config of a function from `input_dim` to F.
            activation: name for `activation_fn`.
            gated: whether the experts are gated.
            num_experts: E.
            experts_per_token: C.
            router: chooses the experts.
            experts: transforms rows that are sorted by expert.
            shared_expert: works on every token, added to the others' result; None for none.
            dropout: of the result.
        """

        input_dim: Required[int] = REQUIRED
        hidden_dim: Required[int | InstantiableConfig] = REQUIRED
        activation: str = "silu"
        gated: bool = True
        num_experts: Required[int] = REQUIRED
        experts_per_token: int = 2
        router: BaseLayer.Config = TopKRouter.default_config()
        experts: BaseLayer.Config = GroupedExperts.default_config()
        shared_expert: BaseLayer.Config | None = None
        dropout: BaseLayer.Config = Dropout.default_config()

        def derive(self) -> None:
            super().derive()
            self.hidden_dim = resolved_hidden_dim(self.hidden_dim, self.input_dim)
            D, E = self.input_dim, self.num_experts
            self.provide(
                self.router,
                input_dim=D,
                num_experts=E,
                experts_per_token=self.experts_per_token,
            )
            self.provide(
                self.experts,
                input_dim=D,
                num_experts=E,
                hidden_dim=self.hidden_dim,
                activation=self.activation,
                gated=self.gated,
            )
            self.provide(self.shared_expert, input_dim=D)

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        for child in ("router", "experts", "shared_expert", "dropout"):
            self.add_child(child, getattr(cfg, child))

    def forward(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Returns the transformed tokens, each by itself; no token is dropped."""
        x_ND = x_BSD.reshape(-1, x_BSD.shape[-1])
        routing = self.router(x_ND)
        C = routing.experts_NC.shape[1]
        order_M = jnp.argsort(routing.experts_NC.reshape(-1), stable=True)
        place_M = jnp.argsort(order_M)
        rows_MD = _permuted(jnp.repeat(x_ND, C, axis=0), order_M, place_M)
        rows_MD = self.experts(rows_MD, routing.loads_E)
        choices_NCD = _permuted(rows_MD, place_M, order_M).reshape(-1, C, x_ND.shape[1])
        y_ND = jnp.einsum("NCD,NC->ND", choices_NCD, routing.weights_NC.astype(x_ND.dtype))
        y_BSD = self.dropout(y_ND.reshape(x_BSD.shape))
        if self.shared_expert is not None:
            y_BSD += self.shared_expert(x_BSD)
        return y_BSD

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        """Returns the FLOPs of the router and of the experts that one token uses."""
        others = super().forward_flops_per_token(sequence_length)
        expert = self.experts.forward_flops_per_token(sequence_length)
        return others + (self.cfg.experts_per_token - 1) * expert


# The gradient of a gather is a scatter-add, unless one knows that it is a permutation.
@jax.custom_vjp
def _permuted(x_MD: jax.Array, order_M: jax.Array, inverse_M: jax.Array) -> jax.Array:
    """Returns `x_MD[order_M]`; `inverse_M` is the inverse permutation."""
    return x_MD[order_M]


def _forward(
    x_MD: jax.Array, order_M: jax.Array, inverse_M: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _permuted(x_MD, order_M, inverse_M), inverse_M


def _backward(inverse_M: jax.Array, g_MD: jax.Array) -> tuple[jax.Array, None, None]:
    return g_MD[inverse_M], None, None


_permuted.defvjp(_forward, _backward)
