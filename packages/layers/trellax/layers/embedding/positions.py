"""Absolute position embeddings, for models that add positions to their input.

    x_BSD += positions(positions_BS)

Axes: B batch (1 where all rows have the same positions), S sequence, D model, T longest sequence.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, Required
from trellax.layers.base import BaseLayer, Initializer, NormalInitializer, ParameterSpec
from trellax.layers.embedding.embedding import look_up
from trellax.layers.module import structural


class LearnedPositionEmbedding(BaseLayer):
    """A vector a position. Parameters: `weight [T, D]`."""

    class Config(BaseLayer.Config):
        """
        Fields:
            max_length: T, number of positions.
            dim: D, size of a vector.
        """

        max_length: Required[int] = REQUIRED
        dim: Required[int] = REQUIRED
        initializer: Initializer.Config = NormalInitializer.default_config()

    @structural
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        spec = ParameterSpec(
            shape=(self.cfg.max_length, self.cfg.dim),
            dtype=self.cfg.param_dtype,
            initializer=self.cfg.initializer.instantiate(),
            logical_axes=(None, "embed"),
        )
        return {"weight": spec}

    def forward(self, positions_BS: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Returns the vectors of the positions; of one past the last, NaN."""
        return look_up(self.parameters["weight"], positions_BS)


class SinusoidalPositionEmbedding(BaseLayer):
    """Sines and cosines of geometric wavelengths (Vaswani et al. 2017, arXiv:1706.03762, 3.5).

    The first half of the dims are sines, the second cosines.
    """

    class Config(BaseLayer.Config):
        """
        Fields:
            dim: D, size of a vector; even.
            max_wavelength: longest wavelength, in units of 2π positions.
        """

        dim: Required[int] = REQUIRED
        max_wavelength: float = 10_000.0

        def check(self) -> None:
            super().check()
            if self.dim % 2:
                raise ValueError(f"dim={self.dim} is odd; sines and cosines take half each.")

    def forward(self, positions_BS: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Returns the encodings, in float32."""
        half = self.cfg.dim // 2
        frequencies = self.cfg.max_wavelength ** (-jnp.arange(half, dtype=jnp.float32) / half)
        angles = positions_BS.astype(jnp.float32)[..., None] * frequencies
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
