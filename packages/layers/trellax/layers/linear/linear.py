"""A linear map of the last dim.

    cfg = Linear.default_config().set(input_dim=512, output_dim=1024, axes=("embed", "mlp"))
    y_BSF = linear(x_BSD)

Axes: D input, F output.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.layers.base import BaseLayer, ConstantInitializer, ParameterSpec, Prepare
from trellax.layers.linear.projection import contract
from trellax.layers.module import structural


class Linear(BaseLayer):
    """`y = x · weight (+ bias)`. Parameters: `weight [D, F]`, `bias [F]`."""

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dim: D, size of the last dim of the input.
            output_dim: F, size of the last dim of the output.
            axes: logical axes of D and F; None where a parent names none.
            bias: whether a bias is added.
        """

        input_dim: Required[int] = REQUIRED
        output_dim: Required[int] = REQUIRED
        axes: tuple[str | None, str | None] | None = None
        bias: bool = False

    @structural
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        cfg = self.cfg
        axes = cfg.axes or (None, None)
        specs = {
            "weight": ParameterSpec(
                shape=(cfg.input_dim, cfg.output_dim),
                dtype=cfg.param_dtype,
                initializer=cfg.initializer.instantiate(),
                logical_axes=axes,
                fan_in=(0,),
                fan_out=(1,),
            )
        }
        if cfg.bias:
            specs["bias"] = ParameterSpec(
                shape=(cfg.output_dim,),
                dtype=cfg.param_dtype,
                initializer=ConstantInitializer.default_config().instantiate(),
                logical_axes=axes[1:],
            )
        return specs

    def forward(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """Returns the mapped input, in the input's dtype."""
        weight, bias = self.parameters["weight"], self.parameters.get("bias")
        return contract(x, weight, bias, num_dims=1, output_dims=(self.cfg.output_dim,))

    @structural
    def prepared(self, params: dict[str, Any], prepare: Prepare) -> dict[str, Any]:
        return params | {"weight": prepare(params["weight"])}

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        return 2.0 * self.cfg.input_dim * self.cfg.output_dim
