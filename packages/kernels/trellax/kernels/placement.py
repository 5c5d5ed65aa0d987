"""Where the code being traced will run: its platform, and whether it sees one device or many.

The mesh in scope (`jax.set_mesh`) decides, so that a program compiled ahead of time for a TPU on a
laptop is given TPU kernels; without a mesh, JAX's default backend does.

    placement.platform()      # "cpu", "gpu", "tpu", "neuron", ...
"""

from __future__ import annotations

import jax
from jax.sharding import AxisType
from jaxtyping import Array


def platform() -> str:
    """Returns the platform that the code being traced is for, in JAX's spelling ("gpu" for CUDA)."""
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    name = str(abstract.platform) if abstract is not None else jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name


def is_per_device() -> bool:
    """Returns whether arrays here are one device's own: one device only, or inside `jax.shard_map`.

    Pallas kernels are opaque to XLA's partitioner, so they may be called only then.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    return all(
        size == 1 or axis_type == AxisType.Manual
        for size, axis_type in zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    )


def like_varying(x: Array, *others: Array) -> Array:
    """Marks `x` as varying over the `shard_map` axes that any of `others` varies over.

    A scan's carry must vary as its output does; outside `shard_map` this is the identity. Where `x` is
    differentiated, the sum over devices of its gradient follows from it.
    """
    axes = frozenset().union(*map(_varying_axes, others)) - _varying_axes(x)
    return jax.lax.pcast(x, tuple(sorted(axes)), to="varying") if axes else x


def _varying_axes(x: Array) -> frozenset[str]:
    kind = jax.typeof(x)
    if hasattr(kind, "manual_axis_type"):  # JAX 0.11 on
        return frozenset(kind.manual_axis_type.varying)
    return frozenset(kind.vma)
