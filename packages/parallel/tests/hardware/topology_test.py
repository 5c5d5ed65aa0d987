"""Shapes of slices, links, and descriptions of GPUs."""

import importlib.util
import math
import re

import jax
import jax.numpy as jnp
import pytest

from trellax.parallel import hardware_named, known_chips
from trellax.parallel.hardware import (
    gpu_target,
    link_bytes_per_second,
    network_of,
    slice_topology,
    torus_is_ring,
)
from trellax.parallel.planning import aot_devices

TPUS = [chip for chip in known_chips().values() if chip.platform == "tpu"]
GPUS = [chip for chip in known_chips().values() if chip.platform == "gpu"]


@pytest.mark.parametrize(
    ("name", "topology", "closed"),
    [
        ("tpu-v5p-512", (4, 8, 8), True),
        ("tpu-v5p-1024", (8, 8, 8), True),
        ("tpu-v5p-32", (2, 2, 4), False),
        ("tpu-v5e-256", (16, 16), True),
        ("tpu-v5e-256-4", (16, 16), True),
        ("tpu-v5e-64", (8, 8), False),
        ("tpu-7x-128", (4, 4, 4), True),
    ],
)
def test_a_slice_has_clouds_shape(name, topology, closed):
    hardware = hardware_named(name)
    assert slice_topology(hardware) == topology
    assert set(torus_is_ring(hardware, topology)) == {closed}


def test_an_axis_of_a_plane_may_be_a_ring_by_itself():
    assert torus_is_ring(hardware_named("tpu-v6e-128"), (8, 16)) == (False, True)


@pytest.mark.parametrize("chip", TPUS, ids=lambda chip: chip.name)
def test_every_shape_has_a_name(chip):
    for shape in chip.topologies:
        sizes = tuple(map(int, shape.split("x")))
        assert (
            slice_topology(hardware_named(f"{chip.name}-{math.prod(sizes) * chip.count_per_chip}"))
            == sizes
        )


def test_gpus_are_linked_by_a_switch_and_have_no_torus():
    node = hardware_named("gpu-h100-8")
    assert network_of(node) == "switch" and network_of(hardware_named("tpu-v5e-4")) == "torus"
    assert link_bytes_per_second(node) == 4.5e11
    with pytest.raises(ValueError, match="gpu-h100 is not linked in a torus"):
        slice_topology(node)


@pytest.mark.parametrize("chip", GPUS, ids=lambda chip: chip.name)
def test_every_gpu_has_a_description_with_its_facts(chip):
    text = gpu_target(hardware_named(f"{chip.name}-8"))
    numbers = dict(re.findall(r"(\w+): (\d+)", text))
    assert int(numbers["device_memory_size"]) == chip.hbm_bytes
    assert int(numbers["memory_bandwidth"]) == chip.hbm_bytes_per_second
    assert f'device_description_str: "{chip.device_kinds[0]}"' in text


def test_other_chips_have_no_description():
    with pytest.raises(ValueError, match="tpu-v5e-4: there is no description of tpu-v5e"):
        gpu_target(hardware_named("tpu-v5e-4"))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("chip", TPUS, ids=lambda chip: chip.name)
def test_usable_memory_is_what_the_compiler_says(chip):
    hardware = hardware_named(f"{chip.name}-{4 * chip.count_per_chip}")
    sharding = jax.sharding.SingleDeviceSharding(aot_devices(hardware)[0])
    rows = int(chip.hbm_bytes) // 2**29 * 2
    too_large = jax.ShapeDtypeStruct((rows, 2**29), jnp.bool_, sharding=sharding)
    with pytest.raises(Exception, match="exceeds available HBM") as raised:
        jax.jit(jnp.logical_not).lower(too_large).compile()
    assert f"available HBM ({chip.usable_hbm_gib_per_device}G)" in str(raised.value)
