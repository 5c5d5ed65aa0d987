"""A compiled program's memory, collectives and matmuls are those that its shapes imply, on every platform."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.planning.tiny_program import EMBED, LAYERS, MLP, ROWS, lowered_step
from trellax.parallel import MeshShape, build_mesh, hardware_named
from trellax.parallel.planning import aot_devices, bytes_by_kind, compile_program

NO_LIBTPU = importlib.util.find_spec("libtpu") is None
NO_CUDA = not any(importlib.util.find_spec(f"jax_cuda{v}_plugin") for v in (12, 13))
needs_libtpu = pytest.mark.skipif(NO_LIBTPU, reason="libtpu is not installed")
needs_cuda = pytest.mark.skipif(NO_CUDA, reason="JAX's CUDA plugin is not installed")

HARDWARE = [
    "cpu",
    pytest.param("tpu-v5p-16", marks=needs_libtpu),
    pytest.param("tpu-v5e-8", marks=needs_libtpu),
    pytest.param("gpu-h100-8", marks=needs_cuda),
]


@pytest.fixture(scope="module", params=HARDWARE)
def program(request):
    devices = aot_devices(hardware_named(request.param))
    mesh = build_mesh(MeshShape(fsdp=4, model=2), devices=devices)
    return compile_program(lowered_step(mesh), mesh.shape)


def test_weights_are_gathered_twice_and_gradients_scattered_over_fsdp(program):
    moved = bytes_by_kind(program.collectives)
    gathered_once = (
        LAYERS * 2 * EMBED * MLP // 2 * 4
    )  # Both matrices, of which `model` holds half each.
    assert moved["all-gather", ("fsdp",)] == 2 * gathered_once
    assert moved["reduce-scatter", ("fsdp",)] == gathered_once


def test_tensor_parallel_sums_run_over_model_once_in_each_pass_of_each_layer(program):
    activations = ROWS // 4 * EMBED * 4
    moved = bytes_by_kind(program.collectives)
    assert moved["all-reduce", ("model",)] == 2 * LAYERS * activations
    assert {c.axes for c in program.collectives} == {("fsdp",), ("model",)}


def test_collectives_in_a_scan_count_as_often_as_it_runs(program):
    assert {c.times % LAYERS for c in program.collectives} == {0}
    assert all("while/body" in c.where for c in program.collectives)


def test_matmuls_are_one_devices_share(program):
    forward = 2 * 2 * ROWS * EMBED * MLP * LAYERS
    assert program.matmul_flops == 3 * forward / 8
    assert program.unbounded_loops == () and program.notes == ()


def test_memory_holds_arguments_and_donated_results_once(program):
    params = LAYERS * 2 * EMBED * MLP * 4 // 8
    memory = program.memory
    assert memory.argument_bytes >= params + ROWS * EMBED * 4 // 4
    assert memory.alias_bytes >= params
    assert memory.argument_bytes < memory.peak_bytes
    assert memory.host_bytes == 0


def test_one_device_moves_nothing_and_does_all_the_work():
    mesh = build_mesh(MeshShape(), devices=aot_devices(hardware_named("cpu"))[:1])
    program = compile_program(lowered_step(mesh), mesh.shape)
    assert program.collectives == () and program.notes == ()
    assert program.matmul_flops == 3 * 2 * 2 * ROWS * EMBED * MLP * LAYERS


@needs_libtpu
@pytest.mark.parametrize("name", ["tpu-v5e-1", "tpu-v5e-4"])
def test_a_program_that_does_not_fit_has_no_executable_and_says_what_it_needs(name):
    devices = aot_devices(hardware_named(name))
    mesh = build_mesh(MeshShape(fsdp=-1), devices=devices)
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    large = jax.ShapeDtypeStruct((len(devices) * 40, 2**29), jnp.bool_, sharding=sharding)
    program = compile_program(jax.jit(jnp.logical_not).lower(large), mesh.shape)
    assert program.executable is None and program.memory is None
    assert program.overflow_bytes >= 40 * 2**29


def test_a_persistent_cache_does_not_hide_the_partitioned_program(tmp_path):
    code = (
        "import jax, os, sys\n"
        "jax.config.update('jax_num_cpu_devices', 8)\n"
        "jax.config.update('jax_compilation_cache_dir', sys.argv[1])\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "from tests.planning.tiny_program import lowered_step\n"
        "from trellax.parallel import MeshShape, build_mesh\n"
        "from trellax.parallel.planning import compile_program\n"
        "mesh = build_mesh(MeshShape(fsdp=4, model=2))\n"
        "lowered_step(mesh).compile()\n"
        "cached = os.listdir(sys.argv[1])\n"
        "print(len(compile_program(lowered_step(mesh), mesh.shape).collectives))\n"
        "assert cached and os.listdir(sys.argv[1]) == cached\n"
        "jax.jit(jax.numpy.cos)(jax.numpy.ones(3))\n"
        "assert len(os.listdir(sys.argv[1])) > len(cached)  # It is on again.\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
