"""Meshes are built over devices of any hardware that has a compiler; where it is missing, the message says what to install."""

import importlib.util
import math

import jax
import pytest

from trellax.parallel import AxisSizes, MeshShape, build_mesh, detect_hardware, hardware_named
from trellax.parallel.planning import PlanningUnavailableError, aot_devices

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
needs_cuda = pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_cuda{v}_plugin") for v in (12, 13)),
    reason="JAX's CUDA plugin is not installed",
)
WITHIN_NODES = MeshShape(model=8, dcn=AxisSizes(fsdp=-1))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("tpu-v4-1024", MeshShape(fsdp=-1, model=8), marks=needs_libtpu),
        pytest.param("tpu-v5e-1", MeshShape(fsdp=-1), marks=needs_libtpu),
        pytest.param("tpu-v5e-8", MeshShape(fsdp=-1), marks=needs_libtpu),
        pytest.param("tpu-v5e-256", MeshShape(fsdp=-1), marks=needs_libtpu),
        pytest.param("tpu-v5e-256-4", MeshShape(data=-1, fsdp=256), marks=needs_libtpu),
        pytest.param("tpu-v5p-512", MeshShape(fsdp=-1), marks=needs_libtpu),
        pytest.param(
            "tpu-v5p-512", MeshShape(pipeline=4, fsdp=-1, seq=2, model=4), marks=needs_libtpu
        ),
        pytest.param("tpu-v5p-1024", MeshShape(expert=2, fsdp=-1, model=8), marks=needs_libtpu),
        pytest.param("tpu-v6e-256", MeshShape(fsdp=-1, model=16), marks=needs_libtpu),
        pytest.param("tpu-7x-128", MeshShape(fsdp=-1, model=2), marks=needs_libtpu),
        pytest.param("gpu-a100-8", MeshShape(fsdp=-1), marks=needs_cuda),
        pytest.param("gpu-h100-256", WITHIN_NODES, marks=needs_cuda),
        pytest.param("gpu-p5.48xlarge-512", WITHIN_NODES, marks=needs_cuda),
        pytest.param("gpu-h200-16", WITHIN_NODES, marks=needs_cuda),
        pytest.param("gpu-b200-64", WITHIN_NODES, marks=needs_cuda),
    ],
)
def test_meshes_are_built_over_devices_that_are_not_here(name, shape):
    hardware = hardware_named(name)
    devices = aot_devices(hardware)
    assert detect_hardware(devices) == hardware
    mesh = build_mesh(shape, devices=devices)
    assert math.prod(mesh.shape.values()) == hardware.num_devices
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert aot_devices(hardware) == devices  # Programs for equal hardware have equal devices.


def test_cpu_devices_are_those_that_are_here():
    assert aot_devices(hardware_named("cpu")) == jax.devices("cpu")


def test_trainium_has_no_public_compiler():
    with pytest.raises(PlanningUnavailableError, match=r"trn2-64: no compiler .* abstract_mesh"):
        aot_devices(hardware_named("trn2-64"))


@pytest.mark.parametrize(
    ("name", "extra"), [("tpu-v5p-8", r"jax\[tpu\]"), ("gpu-h100-8", r"jax\[cuda13\]")]
)
def test_a_missing_compiler_is_an_error_that_names_what_to_install(monkeypatch, name, extra):
    from trellax.parallel.planning import devices

    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda module: None)
    devices._tpu_devices.cache_clear()
    devices._gpu_devices.cache_clear()
    with pytest.raises(PlanningUnavailableError, match=f"{name}: .*pip install .{extra}"):
        aot_devices(hardware_named(name))


@needs_libtpu
def test_a_slice_that_cloud_does_not_have_is_refused():
    with pytest.raises(
        ValueError, match="no slice of 5 chips. tpu-v5e-COUNT exists for COUNT in 1, 4, 8, 16"
    ):
        aot_devices(hardware_named("tpu-v5e-5"))
