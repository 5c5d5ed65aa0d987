"""Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4).

    norm = RMSNorm.default_config().set(input_dim=512)
    y_BSD = norm(x_BSD)

Axes: D model.
"""

from __future__ import annotations

from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.kernels.rowwise import rms_norm
from trellax.layers.base import BaseLayer, ConstantInitializer, ParameterSpec
from trellax.layers.module import structural


class RMSNorm(BaseLayer):
    """`x / sqrt(mean(x²) + eps) · scale`, computed in float32. Parameters: `scale [D]`."""

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dim: D, size of the last dim.
            eps: added to the mean square.
        """

        input_dim: Required[int] = REQUIRED
        eps: float = 1e-5

    @structural
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        ones = ConstantInitializer.default_config().set(value=1.0).instantiate()
        shape, dtype = (self.cfg.input_dim,), self.cfg.param_dtype
        return {"scale": ParameterSpec(shape, dtype, ones, logical_axes=("norm",))}

    def forward(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Returns the normalised input, in the input's dtype."""
        return rms_norm(x, self.parameters["scale"], eps=self.cfg.eps)
