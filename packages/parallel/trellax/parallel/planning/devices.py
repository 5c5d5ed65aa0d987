"""Devices of hardware that is not here: enough to compile for, not to run on.

    mesh = build_mesh(rule.mesh_shape, devices=aot_devices(hardware_named("tpu-v5p-512")))

TPU programs are compiled by `libtpu`, GPU programs by JAX's CUDA plugin from a description of the GPU. Neither needs an
accelerator. For Trainium there is no public compiler: programs can be lowered to StableHLO over an `abstract_mesh`.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import TYPE_CHECKING, Any

from trellax.parallel.environment import prepare_libtpu_without_tpu
from trellax.parallel.hardware import Hardware, gpu_target, hardware_named, slice_topology
from trellax.parallel.mesh import MESH_AXES, MeshShape

if TYPE_CHECKING:
    import jax


class PlanningUnavailableError(RuntimeError):
    """A program cannot be compiled here for some hardware; the message says what to install or do instead."""


def aot_devices(hardware: Hardware) -> list[jax.Device]:
    """Returns the devices of some hardware to compile for ahead of time, in the order of their ids.

    Args:
        hardware: TPU slices, GPU nodes, or "cpu", for which they are the devices of this process.

    Raises:
        PlanningUnavailableError: if the compiler is not installed, or there is none (Trainium).
        ValueError: if there is no slice of this size.
    """
    if hardware.platform == "tpu":
        return list(_tpu_devices(hardware.name))
    if hardware.platform == "gpu":
        return list(_gpu_devices(hardware.name))
    if hardware.platform == "cpu":
        import jax

        return list(jax.devices("cpu"))
    raise PlanningUnavailableError(
        f"{hardware.name}: no compiler for {hardware.platform} is published. Lower the program over "
        "abstract_mesh(shape, hardware) instead, and read its jaxpr with neuron_lint."
    )


def abstract_mesh(shape: MeshShape, hardware: Hardware) -> jax.sharding.AbstractMesh:
    """Returns a mesh without devices, over which any program can be lowered to StableHLO for any platform.

    `jax.jit(step).trace(*args).lower(lowering_platforms=("neuron",))`, with `args` whose shardings lie on this mesh, gives
    the program before partitioning. It cannot be compiled.

    Args:
        shape: one size may be -1.
        hardware: whose number of devices the mesh has.
    """
    import jax

    sizes = shape.resolved(hardware.num_devices).total_sizes()
    axis_types = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    device = jax.sharding.AbstractDevice(hardware.chip.device_kinds[0], None, hardware.platform)
    return jax.sharding.AbstractMesh(
        tuple(sizes.values()), MESH_AXES, axis_types=axis_types, abstract_device=device
    )


@functools.cache  # Devices of two descriptions of one topology differ.
def _tpu_devices(name: str) -> tuple[Any, ...]:
    hardware = hardware_named(name)
    if importlib.util.find_spec("libtpu") is None:
        raise PlanningUnavailableError(
            f'{hardware.name}: TPU programs are compiled by libtpu, which is not installed; pip install "jax[tpu]" '
            "(Linux on x86-64; it needs no TPU)."
        )
    prepare_libtpu_without_tpu()
    from jax.experimental import topologies

    chips = slice_topology(hardware)
    options: dict[str, Any] = {}
    if math.prod(chips) <= max(
        1, hardware.chip.max_chips_one_host
    ):  # One host, and no block of 2x2.
        options["chips_per_host_bounds"] = (*chips, 1, 1)[:3]
    if hardware.chip.name == "tpu-v4":
        options["chip_config_name"] = (
            "megacore"  # One device a chip, as JAX has it on real machines.
        )
    if hardware.num_slices > 1:
        options["num_slices"] = hardware.num_slices
    topology_name = f"{hardware.chip.topology_generation}:{'x'.join(map(str, chips))}"
    topology = topologies.get_topology_desc(platform="tpu", topology_name=topology_name, **options)
    return tuple(topology.devices)


@functools.cache
def _gpu_devices(name: str) -> tuple[Any, ...]:
    hardware = hardware_named(name)
    if not any(importlib.util.find_spec(f"jax_cuda{v}_plugin") for v in (12, 13)):
        raise PlanningUnavailableError(
            f"{hardware.name}: GPU programs are compiled by JAX's CUDA plugin, which is not installed; "
            'pip install "jax[cuda13]" (5 GB; it needs no GPU, set JAX_PLATFORMS=cpu where there is none).'
        )
    from jax.experimental import topologies

    topology = (
        f"1x{hardware.num_hosts}x{hardware.devices_per_host}"  # Partitions, hosts, GPUs of each.
    )
    try:
        described = topologies.get_topology_desc(
            platform="cuda", topology_name="", topology=topology, target_config=gpu_target(hardware)
        )
    except RuntimeError as e:
        raise PlanningUnavailableError(
            f"{hardware.name}: the CUDA plugin did not load ({e}). Where there is no GPU, set JAX_PLATFORMS=cpu."
        ) from e
    return tuple(described.devices)
