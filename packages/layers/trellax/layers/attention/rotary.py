"""Rotary position embedding (RoPE; Su et al. 2021, 2104.09864) and its context extensions.

    RotaryPositions.default_config().set(theta=5e5, scaling=Llama3RopeScaling.default_config())

Each pair of dims of a query or key is turned by its position times the pair's frequency, so a score
depends on the distance alone. Keys are turned before they are cached.

Axes: B batch, S sequence, N heads, H head dim, R rotated pairs of dims.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, Configurable, Required
from trellax.layers.attention.positions import Positioned, Positions, position_angles


class RopeScaling(Configurable):
    """Interface: changes the frequencies of RoPE, so that a model reads longer contexts."""

    def frequencies(self, frequencies_R: np.ndarray) -> np.ndarray:
        """Returns changed frequencies, radians a token, float64."""
        raise NotImplementedError


class LinearRopeScaling(RopeScaling):
    """Position interpolation: all positions are squeezed by a factor (2306.15595)."""

    class Config(RopeScaling.Config):
        """
        Fields:
            factor: how many times longer the new context is.
        """

        factor: Required[float] = REQUIRED

        def check(self) -> None:
            super().check()
            if self.factor < 1:
                raise ValueError(f"factor must be at least 1, got {self.factor}.")

    def frequencies(self, frequencies_R: np.ndarray) -> np.ndarray:
        return frequencies_R / self.cfg.factor


class Llama3RopeScaling(RopeScaling):
    """Scaling of Llama 3.1 (2407.21783; formula of its reference code).

    Wavelengths well within the original context stay, those beyond it are stretched by `factor`, and
    those between are blended linearly in original_length / wavelength.
    """

    class Config(RopeScaling.Config):
        """
        Fields:
            factor: by how much the longest wavelengths are stretched.
            low_frequency_factor: wavelengths over original_length / this are stretched in full.
            high_frequency_factor: wavelengths under original_length / this stay.
            original_length: context that the model was first trained with, in tokens.
        """

        factor: float = 8.0
        low_frequency_factor: float = 1.0
        high_frequency_factor: float = 4.0
        original_length: int = 8192

        def check(self) -> None:
            super().check()
            if not 0 < self.low_frequency_factor < self.high_frequency_factor:
                raise ValueError(
                    "low_frequency_factor must be positive and less than high_frequency_factor, "
                    f"got {self.low_frequency_factor} and {self.high_frequency_factor}."
                )

    def frequencies(self, frequencies_R: np.ndarray) -> np.ndarray:
        cfg = self.cfg
        turns_R = cfg.original_length * frequencies_R / (2 * math.pi)
        kept_R = (turns_R - cfg.low_frequency_factor) / (
            cfg.high_frequency_factor - cfg.low_frequency_factor
        )
        kept_R = np.clip(kept_R, 0.0, 1.0)
        return frequencies_R * (kept_R + (1 - kept_R) / cfg.factor)


class RotaryPositions(Positions):
    """Turns queries and keys by their positions. Angles and the turn itself are float32."""

    class Config(Positions.Config):
        """
        Fields:
            theta: base of the geometric series of wavelengths, 2π·theta^(2r/rotated dims).
            rotary_fraction: part of each head's dims that is turned, the first ones; the rest stays.
            pairing: which dims make a pair. "half": dim r with dim r + R, as in Hugging Face's Llama
                (`rotate_half`). "interleaved": dims 2r and 2r + 1, as in the paper, GPT-J and Meta's
                Llama code. Weights of one convention need their rows permuted for the other.
            scaling: context extension, None for none.
        """

        theta: float = 10_000.0
        rotary_fraction: float = 1.0
        pairing: Literal["half", "interleaved"] = "half"
        scaling: RopeScaling.Config | None = None

        def check(self) -> None:
            super().check()
            if not 0 < self.rotary_fraction <= 1 or self.rotated_dims() % 2:
                raise ValueError(
                    f"rotary_fraction={self.rotary_fraction} of head_dim={self.head_dim} turns "
                    f"{self.rotated_dims()} dims; that must be even, at least 2 and at most head_dim."
                )

        def rotated_dims(self) -> int:
            """Returns how many dims of a head are turned."""
            return int(self.head_dim * self.rotary_fraction)

    def forward(
        self,
        query: Float[Array, "B S N H"],
        key: Float[Array, "B S K H"],
        query_positions: Int[Array, "B S"] | None,
        key_positions: Int[Array, "B S"] | None,
    ) -> Positioned:
        query_turn = self._turn(query_positions, query.shape[1])
        same = key_positions is query_positions and key.shape[1] == query.shape[1]
        key_turn = query_turn if same else self._turn(key_positions, key.shape[1])
        return Positioned(self._rotate(query, query_turn), self._rotate(key, key_turn))

    def _turn(self, positions_BS: Array | None, length: int) -> tuple[Array, Array]:
        """Returns (cosines, sines), each float32 [#B, S, 1, R]."""
        dims = self.cfg.rotated_dims()
        frequencies_R = self.cfg.theta ** -(np.arange(0, dims, 2, dtype=np.float64) / dims)
        if self.cfg.scaling is not None:
            frequencies_R = self.cfg.scaling.instantiate().frequencies(frequencies_R)
        angles_BS1R = position_angles(positions_BS, length, frequencies_R)[:, :, None]
        turn = jnp.cos(angles_BS1R), jnp.sin(angles_BS1R)
        # Without gradients all layers may share them, so XLA is kept from computing them again wherever they are read.
        return turn if self.is_training else jax.lax.optimization_barrier(turn)

    def _rotate(self, x_BSNH: Array, turn: tuple[Array, Array]) -> Array:
        dims = self.cfg.rotated_dims()
        rotate = _rotate_halves if self.cfg.pairing == "half" else _rotate_interleaved
        rotated = rotate(x_BSNH[..., :dims].astype(jnp.float32), *turn).astype(x_BSNH.dtype)
        if dims == x_BSNH.shape[-1]:
            return rotated
        return jnp.concatenate([rotated, x_BSNH[..., dims:]], axis=-1)


def _rotate_halves(x: Array, cos: Array, sin: Array) -> Array:
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _rotate_interleaved(x: Array, cos: Array, sin: Array) -> Array:
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)
