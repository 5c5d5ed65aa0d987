"""A shared expert whose share each token decides, as in Qwen2-MoE.

    moe_cfg.set(shared_expert=GatedSharedExpert.default_config())
    moe_cfg.shared_expert.expert.set(hidden_dim=5632)

Axes: B batch, S sequence, D model.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.layers.base import BaseLayer
from trellax.layers.feed_forward import FeedForwardLayer
from trellax.layers.linear import Linear
from trellax.layers.module import Module


class GatedSharedExpert(BaseLayer):
    """`sigmoid(gate(x)) · expert(x)`, one gate a token (Qwen2, arXiv:2407.10671, section 2.2.2)."""

    gate: BaseLayer
    expert: BaseLayer

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dim: D, of input and output.
            gate: linear map D → 1.
            expert: works on every token.
        """

        input_dim: Required[int] = REQUIRED
        gate: BaseLayer.Config = Linear.default_config()
        expert: BaseLayer.Config = FeedForwardLayer.default_config()

        def derive(self) -> None:
            super().derive()
            self.provide(self.gate, input_dim=self.input_dim, output_dim=1, axes=("embed", None))
            self.provide(self.expert, input_dim=self.input_dim)

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        for child in ("gate", "expert"):
            self.add_child(child, getattr(cfg, child))

    def forward(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Returns the gated result of the expert."""
        return jax.nn.sigmoid(self.gate(x_BSD)) * self.expert(x_BSD)
