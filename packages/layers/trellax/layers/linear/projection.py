"""A linear map from the trailing dims of an array to new ones, such as D → (N, H) and back.

    cfg = Projection.default_config().set(input_dims=(512,), output_dims=(8, 64))
    q_BSNH = projection(x_BSD)

Axes: B batch, S sequence, D model, N heads, H head dim.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.kernels.matmul import PreparedWeight, matmul
from trellax.layers.base import BaseLayer, ConstantInitializer, ParameterSpec, Prepare
from trellax.layers.module import structural


class Projection(BaseLayer):
    """`y = x · weight (+ bias)`, contracting all input dims.

    Parameters: `weight [*input_dims, *output_dims]`, `bias [*output_dims]`.
    """

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dims: sizes of the trailing dims of the input, which are contracted.
            output_dims: sizes of the dims that take their place.
            axes: logical axes of the weight, input dims first; None where a parent names none.
            bias: whether a bias is added.
        """

        input_dims: Required[tuple[int, ...]] = REQUIRED
        output_dims: Required[tuple[int, ...]] = REQUIRED
        axes: tuple[str | None, ...] | None = None
        bias: bool = False

        def check(self) -> None:
            super().check()
            rank = len(self.input_dims) + len(self.output_dims)
            if self.axes is not None and len(self.axes) != rank:
                raise ValueError(
                    f"axes={self.axes!r} names {len(self.axes)} axes, but the weight has {rank} dims "
                    f"{(*self.input_dims, *self.output_dims)}."
                )

    @structural
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        cfg = self.cfg
        shape = (*cfg.input_dims, *cfg.output_dims)
        axes = cfg.axes or (None,) * len(shape)
        num_inputs = len(cfg.input_dims)
        specs = {
            "weight": ParameterSpec(
                shape=shape,
                dtype=cfg.param_dtype,
                initializer=cfg.initializer.instantiate(),
                logical_axes=axes,
                fan_in=tuple(range(num_inputs)),
                fan_out=tuple(range(num_inputs, len(shape))),
            )
        }
        if cfg.bias:
            specs["bias"] = ParameterSpec(
                shape=cfg.output_dims,
                dtype=cfg.param_dtype,
                initializer=ConstantInitializer.default_config().instantiate(),
                logical_axes=axes[num_inputs:],
            )
        return specs

    def forward(self, x: Float[Array, "B S *input_dims"]) -> Float[Array, "B S *output_dims"]:
        """Returns the projected input, in the input's dtype."""
        cfg = self.cfg
        return contract(
            x,
            self.parameters["weight"],
            self.parameters.get("bias"),
            num_dims=len(cfg.input_dims),
            output_dims=cfg.output_dims,
        )

    @structural
    def prepared(self, params: dict[str, Any], prepare: Prepare) -> dict[str, Any]:
        cfg, weight = self.cfg, params["weight"]
        leading = weight.shape[: weight.ndim - len(cfg.input_dims) - len(cfg.output_dims)]
        shape = (*leading, math.prod(cfg.input_dims), math.prod(cfg.output_dims))
        return params | {"weight": prepare(weight.reshape(shape))}

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        return 2.0 * math.prod(self.cfg.input_dims) * math.prod(self.cfg.output_dims)


def contract(
    x: jax.Array,
    weight: jax.Array | PreparedWeight,
    bias: jax.Array | None,
    *,
    num_dims: int,
    output_dims: tuple[int, ...],
) -> jax.Array:
    """Contracts the last `num_dims` dims of `x` with the first ones of `weight`, in `x.dtype`.

    Args:
        x: inputs.
        weight: [*input_dims, *output_dims], or a prepared one of [D, F] with as many numbers.
        bias: [*output_dims], or None.
        num_dims: number of input dims.
        output_dims: sizes of the dims that take their place.
    """
    if isinstance(weight, PreparedWeight):
        rows = x.shape[: x.ndim - num_dims]
        y = matmul(x.reshape(*rows, -1), weight).reshape(*rows, *output_dims)
    else:
        y = jnp.tensordot(x, weight.astype(x.dtype), axes=num_dims)
    return y if bias is None else y + bias.astype(x.dtype)
