"""From a mesh shape and devices to a `jax.sharding.Mesh`.

    mesh = build_mesh(MeshShape(data=-1, fsdp=4))

How devices are placed:
- within a slice by `jax.experimental.mesh_utils`, which maps axes to the TPU's torus; an axis that
  fits no whole torus axis may share one with another;
- across slices (`dcn`) each slice is one block. Where devices do not say that they belong to slices
  (GPU nodes, Trainium, CPU), blocks are runs of devices in order of (process, id), so a block is a
  node where `dcn` multiplies to the number of nodes;
- all devices in one TPU slice: ICI and DCN factors of an axis are multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trellax.parallel.hardware import slice_indices
from trellax.parallel.mesh.shape import MESH_AXES, AxisSizes, MeshShape

if TYPE_CHECKING:
    import jax
    import numpy as np


def build_mesh(shape: MeshShape, *, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Builds the mesh of `shape` over the devices.

    Args:
        shape: one size may be -1.
        devices: all devices of all processes by default; those of an ahead-of-time topology work.

    Returns:
        A mesh with all of `MESH_AXES`, each of type `Auto` (the compiler propagates shardings).

    Raises:
        ValueError: if the shape does not fit the devices or their slices.
    """
    import jax

    devices = list(jax.devices() if devices is None else devices)
    resolved = with_slices(shape.resolved(len(devices)), num_slices=len(slice_indices(devices)))
    axis_types = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    return jax.sharding.Mesh(_arranged(resolved, devices), MESH_AXES, axis_types=axis_types)


def with_slices(shape: MeshShape, *, num_slices: int) -> MeshShape:
    """Returns a resolved shape whose `dcn` says which axes cross the slices.

    Raises:
        ValueError: if the shape cannot be laid over this number of slices.
    """
    if num_slices == 1:
        return shape
    if shape.dcn is not None:
        if math.prod(shape.dcn.sizes()) != num_slices:
            raise ValueError(f"Mesh ({shape}): dcn must multiply to the {num_slices} slices.")
        return shape
    for axis in MESH_AXES:
        size = getattr(shape, axis)
        if size % num_slices == 0:
            across = AxisSizes(**{axis: num_slices})
            return shape.clone(**{axis: size // num_slices}, dcn=across)
    raise ValueError(
        f"Mesh ({shape}): no axis is a multiple of the {num_slices} slices; "
        f"say what crosses them, for example dcn=AxisSizes(data={num_slices})."
    )


def _arranged(shape: MeshShape, devices: list[Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    if shape.dcn is None or (devices[0].platform == "tpu" and len(slice_indices(devices)) == 1):
        return _within_slice(tuple(shape.total_sizes().values()), devices)
    blocks = [_within_slice(shape.sizes(), block) for block in _blocks(shape.dcn, devices)]
    # [*dcn, *ici] -> [dcn0, ici0, dcn1, ici1, ...] -> [dcn0 * ici0, ...]
    stacked = np.stack(blocks).reshape(*shape.dcn.sizes(), *shape.sizes())
    num_axes = len(MESH_AXES)
    order = [dim for axis in range(num_axes) for dim in (axis, axis + num_axes)]
    return stacked.transpose(order).reshape(tuple(shape.total_sizes().values()))


def _blocks(dcn: AxisSizes, devices: list[Any]) -> list[list[Any]]:
    indices = slice_indices(devices)
    if len(indices) > 1:
        return [[d for d in devices if d.slice_index == index] for index in indices]
    ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
    size = len(devices) // math.prod(dcn.sizes())
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _within_slice(sizes: tuple[int, ...], devices: list[Any]) -> np.ndarray[Any, Any]:
    from jax.experimental import mesh_utils

    try:
        return mesh_utils.create_device_mesh(sizes, devices)
    except NotImplementedError:  # No whole torus axes multiply to these sizes.
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
