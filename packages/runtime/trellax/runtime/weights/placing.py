"""A parameter that is put together on its devices, tensor by tensor.

    parameter = PlacedParameter((32, 64, 4, 16), "float32", sharding)
    for tensor in tensors: parameter.put(tensor, values)
    parameter.array()

Each device's block is allocated once and filled in place (the buffer is donated), so the host holds one tensor and a
device no more than its block and a tensor's part of it. Nothing is communicated, whatever the sharding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trellax.layers.weight_names import BoundTensor

Index = tuple[slice, ...]


class PlacedParameter:
    """One parameter, while it is being read."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding):
        """
        Args:
            shape: of the whole parameter.
            dtype: that it gets.
            sharding: where its parts go; those of this process's devices are filled.
        """
        self._shape = shape
        self._dtype = jnp.dtype(dtype)
        self._sharding = sharding
        indices = sharding.addressable_devices_indices_map(shape)
        self._index = {device: _whole(index, shape) for device, index in indices.items()}
        self._blocks: dict[Any, jax.Array] = {}

    def wants(self, tensor: BoundTensor) -> bool:
        """Whether a device of this process holds a part of it."""
        return any(_holds(index, tensor.index) for index in self._index.values())

    def put(self, tensor: BoundTensor, values: np.ndarray) -> None:
        """Copies a tensor's parts to where they belong; `values` may change when this returns."""
        num_leading = len(tensor.index)
        waiting = []
        for device, index in self._index.items():
            if not _holds(index, tensor.index):
                continue
            part, permutation = _part(tensor, values, index[num_leading:])
            # The copy is the device's own: on CPU it would be the file's memory.
            block = jax.device_put(part, device, may_alias=False)
            position = [i - cut.start for i, cut in zip(tensor.index, index)]
            self._fill(device, index, block, position, permutation)
            waiting.append(self._blocks[device])
        jax.block_until_ready(waiting)

    def array(self) -> jax.Array:
        """Returns the parameter."""
        blocks = list(self._blocks.values())
        return jax.make_array_from_single_device_arrays(
            self._shape, self._sharding, blocks, dtype=self._dtype
        )

    def _fill(
        self,
        device: Any,
        index: Index,
        block: jax.Array,
        position: Sequence[int],
        permutation: tuple[int, ...],
    ) -> None:
        shape = tuple(cut.stop - cut.start for cut in index)
        if not position:
            self._blocks[device] = _arranged(block, permutation, shape, self._dtype)
            return
        if device not in self._blocks:
            self._blocks[device] = jnp.zeros(shape, self._dtype, device=device)
        at = np.asarray(position, np.int32)
        self._blocks[device] = _filled(self._blocks[device], block, at, permutation)


def default_sharding() -> jax.sharding.Sharding:
    """Returns the first device, all of it."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _part(tensor: BoundTensor, values: np.ndarray, index: Index) -> tuple[Any, tuple[int, ...]]:
    """Returns a block of the tensor in their arrangement, one dim an axis, and how ours comes from it."""
    found = tensor.pattern.part(index)
    if found is None:  # It is cut within a dim that has several axes.
        ours = tensor.pattern.to_ours(values)[index]
        return ours, tuple(range(ours.ndim))
    slices, _ = found
    return tensor.pattern.split(values)[slices], tensor.pattern.permutation


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _arranged(
    block: jax.Array, permutation: tuple[int, ...], shape: tuple[int, ...], dtype: Any
) -> jax.Array:
    return jnp.copy(block.transpose(permutation).reshape(shape).astype(dtype))


@functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
def _filled(
    stack: jax.Array, block: jax.Array, position: jax.Array, permutation: tuple[int, ...]
) -> jax.Array:
    num_leading = position.shape[0]
    ours = block.transpose(permutation).astype(stack.dtype)
    ours = ours.reshape((1,) * num_leading + stack.shape[num_leading:])
    zeros = [0] * (stack.ndim - num_leading)
    return jax.lax.dynamic_update_slice(stack, ours, [*position, *zeros])


def _whole(index: Any, shape: Sequence[int]) -> Index:
    return tuple(slice(*cut.indices(size)[:2]) for cut, size in zip(index, shape))


def _holds(index: Index, leading: Sequence[int]) -> bool:
    return all(cut.start <= i < cut.stop for cut, i in zip(index, leading))
