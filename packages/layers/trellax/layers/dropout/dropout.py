"""Dropout (Srivastava et al. 2014, JMLR 15): zeroes elements at random, in training only.

y_BSD = Dropout.default_config().set(rate=0.1)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.layers.base import BaseLayer


class Dropout(BaseLayer):
    """Keeps an element with probability `1 - rate`, scaled by `1 / (1 - rate)`. No parameters."""

    class Config(BaseLayer.Config):
        """
        Fields:
            rate: probability that an element is zeroed. At 0 the layer adds no operation and
                needs no key.
        """

        rate: float = 0.0

        def check(self) -> None:
            super().check()
            if not 0.0 <= self.rate < 1.0:
                raise ValueError(f"rate={self.rate!r} is not a probability below 1.")

    def forward(self, x: Float[Array, " ..."]) -> Float[Array, " ..."]:
        """Returns `x` itself outside of training, otherwise `x` with elements dropped."""
        rate = self.cfg.rate
        if rate == 0.0 or not self.is_training:
            return x
        keep = jax.random.bernoulli(self.prng_key, 1.0 - rate, x.shape)
        return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
