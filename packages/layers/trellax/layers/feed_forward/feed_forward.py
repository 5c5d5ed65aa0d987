"""The position-wise feed-forward layer of a transformer, gated or not.

    cfg = FeedForwardLayer.default_config().set(input_dim=512, hidden_dim=1408)  # SwiGLU
    y_BSD = feed_forward(x_BSD)

Axes: B batch, S sequence, D model, F feed-forward.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from trellax.config import REQUIRED, InstantiableConfig, Required
from trellax.layers.base import BaseLayer
from trellax.layers.dropout import Dropout
from trellax.layers.feed_forward.activations import activation_fn, gated_fn
from trellax.layers.feed_forward.hidden_dim import resolved_hidden_dim
from trellax.layers.linear import Linear
from trellax.layers.module import Module


class FeedForwardLayer(BaseLayer):
    """`down(activation(gate(x)) * up(x))` (Shazeer 2020, arXiv:2002.05202, equation 5) or, not
    gated, `down(activation(up(x)))`.
    """

    up: BaseLayer
    gate: BaseLayer | None
    down: BaseLayer
    dropout: BaseLayer

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dim: D, size of input and output.
            hidden_dim: F, or a config of a function from `input_dim` to F.
            activation: name for `activation_fn`.
            gated: whether the activation acts on a gate that multiplies the hidden layer.
            up, gate, down: linear maps D → F, D → F, F → D. `gate` is ignored if not gated.
            dropout: of the hidden layer.
        """

        input_dim: Required[int] = REQUIRED
        hidden_dim: Required[int | InstantiableConfig] = REQUIRED
        activation: str = "silu"
        gated: bool = True
        up: BaseLayer.Config = Linear.default_config()
        gate: BaseLayer.Config | None = Linear.default_config()
        down: BaseLayer.Config = Linear.default_config()
        dropout: BaseLayer.Config = Dropout.default_config()

        def derive(self) -> None:
            super().derive()
            self.hidden_dim = resolved_hidden_dim(self.hidden_dim, self.input_dim)
            if not self.gated:
                self.gate = None
            D, F = self.input_dim, self.hidden_dim
            for widening in (self.up, self.gate):
                self.provide(widening, input_dim=D, output_dim=F, axes=("embed", "mlp"))
            self.provide(self.down, input_dim=F, output_dim=D, axes=("mlp", "embed"))

        def check(self) -> None:
            super().check()
            activation_fn(self.activation)
            if self.gated and self.gate is None:
                raise ValueError("gated=True needs a gate; set `gate`, or gated=False.")

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        for child in ("up", "gate", "down", "dropout"):
            self.add_child(child, getattr(cfg, child))
        self._activation = activation_fn(cfg.activation)
        self._gated = gated_fn(cfg.activation)

    def forward(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Returns the transformed tokens, each by itself."""
        hidden_BSF = self.dropout(self._hidden(x_BSD))
        hidden_BSF = self.constrain(hidden_BSF, ("batch", "length", "act_mlp"))
        return self.tag(self.down(hidden_BSF), "ffn_down")

    def _hidden(self, x_BSD: Any) -> Any:
        up_BSF = self.tag(self.up(x_BSD), "ffn_up")
        if self.gate is None:
            return self._activation(up_BSF)
        gate_BSF = self.tag(self.gate(x_BSD), "ffn_gate")
        return self._gated(gate_BSF, up_BSF)
