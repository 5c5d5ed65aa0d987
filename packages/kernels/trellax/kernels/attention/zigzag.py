"""The balanced layout of a causal sequence over a ring of devices: each has one early and one late chunk.

A row is cut into 2n chunks. Arrays come and go in order (device i has chunks 2i and 2i + 1); in between device i works on
chunks i and 2n - 1 - i, of which a causal mask lets every device see equally much (as in striped attention, 2311.09431,
and in the context parallelism of Llama 3, 2407.21783, section 3.3.2). Functions here run inside `jax.shard_map`.

    x = to_zigzag(x, axis=("seq",), dim=1)
    x = from_zigzag(x, axis=("seq",), dim=1)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

Axis = str | tuple[str, ...]
"""The mesh axes that the sequence is split over, outermost first."""


def check_length(block_length: int, num_devices: int) -> None:
    """Raises if a row does not fall into two chunks a device.

    Raises:
        ValueError: if the block's length is odd.
    """
    if block_length % 2:
        length = block_length * num_devices
        raise ValueError(
            f"context parallelism: a causal row over {num_devices} devices must be a multiple of "
            f"{2 * num_devices} tokens, two chunks each, not {length}; pad rows to "
            f"{-(-length // (2 * num_devices)) * 2 * num_devices}."
        )


def chunk_positions(num_devices: int, length: int) -> Int[np.ndarray, "n S"]:
    """Returns the positions that each device has in the balanced layout.

    Args:
        num_devices: n.
        length: tokens S of each device.
    """
    chunk = length // 2
    device = np.arange(num_devices)[:, None]
    early = device * chunk + np.arange(chunk)
    late = (2 * num_devices - 1 - device) * chunk + np.arange(chunk)
    return np.concatenate([early, late], axis=1).astype(np.int32)


def to_zigzag(x: Array, *, axis: Axis, dim: int) -> Array:
    """Exchanges half blocks so that each device has its early and its late chunk, in this order."""
    n = jax.lax.axis_size(axis)
    first, second = jnp.split(x, 2, axis=dim)
    even = jax.lax.ppermute(first, axis, _owners(n, 0))
    odd = jax.lax.ppermute(second, axis, _owners(n, 1))
    return jnp.concatenate(_swapped_on_odd_devices(even, odd, axis), axis=dim)


def from_zigzag(x: Array, *, axis: Axis, dim: int) -> Array:
    """Undoes `to_zigzag`."""
    n = jax.lax.axis_size(axis)
    early, late = jnp.split(x, 2, axis=dim)
    even, odd = _swapped_on_odd_devices(early, late, axis)
    back = lambda pairs: [(to, source) for source, to in pairs]
    first = jax.lax.ppermute(even, axis, back(_owners(n, 0)))
    second = jax.lax.ppermute(odd, axis, back(_owners(n, 1)))
    return jnp.concatenate([first, second], axis=dim)


def _owners(n: int, which: int) -> list[tuple[int, int]]:
    """Who sends chunk 2i + which to whom: each device sends one even and one odd chunk, and gets one of each."""
    chunks = [2 * device + which for device in range(n)]
    return [(device, min(c, 2 * n - 1 - c)) for device, c in enumerate(chunks)]


def _swapped_on_odd_devices(first: Array, second: Array, axis: Axis) -> list[Array]:
    """The chunk of even number is the early one on even devices, the late one on odd devices."""
    is_odd = jax.lax.axis_index(axis) % 2 == 1
    return [jnp.where(is_odd, second, first), jnp.where(is_odd, first, second)]
