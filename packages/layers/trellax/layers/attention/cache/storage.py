"""How keys and values are stored: in a float type, or in eight bits with a scale for each token and kv head.

    stored = Storage(dtype="int8"); arrays = stored.empty("key", (num_pages, page_size, K, H))

Eight bits: x is kept as round(x / scale) with scale = max|x| over the head dim / largest, so that an error is at most
half a step of the token's own head (per-token quantization as in KIVI, 2402.02750, section 3). With "int8" largest is
127; with "float8_e4m3fn" it is 448.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

_LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}


@dataclasses.dataclass(frozen=True)
class Storage:
    """The type of a cache's arrays.

    Attributes:
        dtype: "int8", "float8_e4m3fn", or a float type of more bits.
    """

    dtype: str

    @property
    def has_scales(self) -> bool:
        return self.dtype in _LARGEST

    def empty(self, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        """Returns the arrays that hold `name`, of shape [..., H]: values, and scales where there are any."""
        arrays = {name: jnp.zeros(shape, self.dtype)}
        if self.has_scales:
            arrays[f"{name}_scale"] = jnp.zeros(shape[:-1], jnp.float32)
        return arrays

    def encoded(self, name: str, x: Float[Array, "... H"]) -> dict[str, Any]:
        """Returns the same arrays for some new vectors."""
        if not self.has_scales:
            return {name: x.astype(self.dtype)}
        x = x.astype(jnp.float32)
        scale = jnp.max(jnp.abs(x), axis=-1) / _LARGEST[self.dtype]
        steps = x / jnp.where(scale == 0, 1.0, scale)[..., None]
        if self.dtype == "int8":
            steps = jnp.round(steps)
        return {name: steps.astype(self.dtype), f"{name}_scale": scale}

    def decoded(
        self, values: Shaped[Array, "... H"], scale: Float[Array, ...] | None, dtype: Any
    ) -> Float[Array, "... H"]:
        """Returns what was stored, in `dtype`."""
        if scale is None:
            return values.astype(dtype)
        return (values.astype(jnp.float32) * scale[..., None]).astype(dtype)


def written(buffer: jax.Array, at: tuple[Any, ...], new: jax.Array) -> jax.Array:
    """Returns `buffer` with `new` at these indices; those that are out of bounds are dropped."""
    return buffer.at[at].set(new.astype(buffer.dtype), mode="drop")
