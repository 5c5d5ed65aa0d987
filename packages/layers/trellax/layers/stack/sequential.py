"""Different layers, one after the other.

    cfg = SequentialStack.default_config().set(layers=[local_cfg, local_cfg, global_cfg])
    y_BSD = stack(x_BSD, tokens)

It can be the layer of a repeated stack: a pattern of layers that is scanned.

Axes: B batch, S sequence, D model.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.layers.base import BaseLayer
from trellax.layers.module import Module
from trellax.layers.stack.base import Stack


class SequentialStack(Stack):
    """Layers of any classes; their parameters are in "layer0", "layer1", …"""

    class Config(Stack.Config):
        """
        Fields:
            layers: each maps `x_BSD` and whatever else the stack is called with to a new `x_BSD`.
            input_dim: D.
        """

        layers: Required[list[BaseLayer.Config]] = REQUIRED
        input_dim: Required[int] = REQUIRED

        def derive(self) -> None:
            super().derive()
            for layer in self.layers if self.layers is not REQUIRED else ():
                self.provide(layer, input_dim=self.input_dim)

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        for i, layer in enumerate(cfg.layers):
            self.add_child(f"layer{i}", layer)

    def forward(self, x_BSD: Float[Array, "B S D"], *args: Any) -> Float[Array, "B S D"]:
        """Returns `x_BSD` after all layers; `args` go to each of them unchanged."""
        for layer in self.children.values():
            x_BSD = layer(x_BSD, *args)
        return x_BSD
