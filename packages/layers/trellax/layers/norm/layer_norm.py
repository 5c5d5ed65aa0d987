"""Layer normalisation (Ba, Kiros and Hinton 2016, arXiv:1607.06450, section 3).

    norm = LayerNorm.default_config().set(input_dim=512)
    y_BSD = norm(x_BSD)

Axes: D model.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.layers.base import BaseLayer, ConstantInitializer, ParameterSpec
from trellax.layers.module import structural


class LayerNorm(BaseLayer):
    """`(x - mean(x)) / sqrt(var(x) + eps) · scale + bias`, computed in float32.

    Parameters: `scale [D]`, `bias [D]`.
    """

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dim: D, size of the last dim.
            eps: added to the variance.
            bias: whether a bias is added.
        """

        input_dim: Required[int] = REQUIRED
        eps: float = 1e-5
        bias: bool = True

    @structural
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        specs = {"scale": self._spec(1.0)}
        if self.cfg.bias:
            specs["bias"] = self._spec(0.0)
        return specs

    def _spec(self, value: float) -> ParameterSpec:
        initializer = ConstantInitializer.default_config().set(value=value).instantiate()
        shape, dtype = (self.cfg.input_dim,), self.cfg.param_dtype
        return ParameterSpec(shape, dtype, initializer, logical_axes=("norm",))

    def forward(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Returns the normalised input, in the input's dtype."""
        x32 = x.astype(jnp.float32)
        centered = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
        y32 = centered * jax.lax.rsqrt(variance + self.cfg.eps)
        y32 *= self.parameters["scale"].astype(jnp.float32)
        if self.cfg.bias:
            y32 += self.parameters["bias"].astype(jnp.float32)
        return y32.astype(x.dtype)
