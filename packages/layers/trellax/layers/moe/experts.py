"""The experts: feed-forward layers that each work on their own rows.

    y_MD = experts(x_MD, group_sizes_E)  # rows sorted by expert

Axes: M rows, D model, F feed-forward, E experts (those of one device, where they are split).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, Required
from trellax.kernels.grouped_matmul import grouped_matmul
from trellax.layers.base import BaseLayer, ParameterSpec
from trellax.layers.feed_forward import activation_fn
from trellax.layers.module import Module, structural


class GroupedExperts(BaseLayer):
    """E feed-forward layers as grouped matrix products (Gale et al. 2022, arXiv:2211.15841).

    Parameters: `up [E, D, F]`, `gate [E, D, F]` if gated, `down [E, F, D]`.
    """

    class Config(BaseLayer.Config):
        """
        Fields:
            num_experts: E.
            input_dim: D.
            hidden_dim: F of one expert.
            activation: name for `activation_fn`.
            gated: whether the activation acts on a gate that multiplies the hidden layer.
            implementation: which implementation of the kernel; None for the best.
        """

        num_experts: Required[int] = REQUIRED
        input_dim: Required[int] = REQUIRED
        hidden_dim: Required[int] = REQUIRED
        activation: Required[str] = REQUIRED
        gated: Required[bool] = REQUIRED
        implementation: str | None = None

        def check(self) -> None:
            super().check()
            activation_fn(self.activation)

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        self._activation = activation_fn(cfg.activation)

    @structural
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        E, D, F = self.cfg.num_experts, self.cfg.input_dim, self.cfg.hidden_dim
        widening = self._spec((E, D, F), ("experts", "embed", "mlp"))
        specs = {"up": widening, "gate": widening} if self.cfg.gated else {"up": widening}
        return specs | {"down": self._spec((E, F, D), ("experts", "mlp", "embed"))}

    def _spec(self, shape: tuple[int, ...], axes: tuple[str, ...]) -> ParameterSpec:
        return ParameterSpec(
            shape=shape,
            dtype=self.cfg.param_dtype,
            initializer=self.cfg.initializer.instantiate(),
            logical_axes=axes,
            fan_in=(1,),
            fan_out=(2,),
        )

    def forward(
        self, x_MD: Float[Array, "M D"], group_sizes_E: Int[Array | np.ndarray, " E"]
    ) -> Float[Array, "M D"]:
        """Returns each row as its expert transforms it.

        Args:
            x_MD: rows, those of the first expert first, and so on.
            group_sizes_E: number of rows of each expert.
        """
        hidden_MF = self._multiply(x_MD, "up", group_sizes_E)
        if self.cfg.gated:
            gate_MF = self._multiply(x_MD, "gate", group_sizes_E)
            hidden_MF = self._activation(gate_MF) * hidden_MF
        else:
            hidden_MF = self._activation(hidden_MF)
        return self._multiply(hidden_MF, "down", group_sizes_E)

    def _multiply(self, x: Array, weight: str, group_sizes_E: Array | np.ndarray) -> Array:
        product = grouped_matmul(
            x,
            self.parameters[weight].astype(x.dtype),
            group_sizes_E,
            implementation=self.cfg.implementation,
        )
        return self.tag(product, f"ffn_{weight}")

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        """Returns the FLOPs of one row, that is of one choice of a token."""
        num_matrices = 3 if self.cfg.gated else 2
        return 2.0 * num_matrices * self.cfg.input_dim * self.cfg.hidden_dim
