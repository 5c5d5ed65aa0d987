"""How parameters start: constants, fixed-width normals and variance scaling.

Sources: He et al. 2015 (arXiv:1502.01852), Glorot and Bengio 2010 for variance scaling.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from trellax.config import Configurable


class Initializer(Configurable):
    """Interface: draws the first value of a parameter."""

    def sample(
        self,
        key: jax.Array,
        shape: tuple[int, ...],
        dtype: str,
        *,
        fan_in: tuple[int, ...],
        fan_out: tuple[int, ...],
    ) -> jax.Array:
        """Returns an array of `shape` and `dtype`; the fans name dims of `shape`."""
        raise NotImplementedError


class ConstantInitializer(Initializer):
    """Every element the same."""

    class Config(Initializer.Config):
        value: float = 0.0

    def sample(self, key: jax.Array, shape: Any, dtype: str, **_: Any) -> jax.Array:
        return jnp.full(shape, self.cfg.value, dtype)


class NormalInitializer(Initializer):
    """Independent normals of a fixed standard deviation."""

    class Config(Initializer.Config):
        stddev: float = 0.02

    def sample(self, key: jax.Array, shape: Any, dtype: str, **_: Any) -> jax.Array:
        return jax.random.normal(key, shape, dtype) * jnp.asarray(self.cfg.stddev, dtype)


class VarianceScalingInitializer(Initializer):
    """Zero mean and variance `scale / fan`, so that activations keep their size."""

    class Config(Initializer.Config):
        scale: float = 1.0
        fan: Literal["in", "out", "average"] = "in"
        distribution: Literal["normal", "truncated_normal", "uniform"] = "truncated_normal"

    def sample(self, key: jax.Array, shape: Any, dtype: str, *, fan_in: Any, fan_out: Any) -> Any:
        fans = [math.prod(shape[d] for d in dims) for dims in (fan_in, fan_out)]
        fan = {"in": fans[0], "out": fans[1], "average": sum(fans) / 2}[self.cfg.fan]
        stddev = math.sqrt(self.cfg.scale / max(fan, 1))
        return _unit_variance(key, shape, dtype, self.cfg.distribution) * jnp.asarray(stddev, dtype)


# Standard deviation of a unit normal truncated to [-2, 2].
_TRUNCATED_STDDEV = 0.87962566103423978


def _unit_variance(key: jax.Array, shape: Any, dtype: str, distribution: str) -> jax.Array:
    if distribution == "normal":
        return jax.random.normal(key, shape, dtype)
    if distribution == "uniform":
        return jax.random.uniform(key, shape, dtype, -math.sqrt(3.0), math.sqrt(3.0))
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) / _TRUNCATED_STDDEV
