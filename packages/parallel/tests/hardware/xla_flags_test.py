"""Flags are known to the compilers, set before the backend starts, and never over the user's."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from trellax.parallel import environment, hardware_named, known_chips
from trellax.parallel.hardware import apply_xla_flags, compiler_options, xla_flags
from trellax.parallel.hardware import xla_flags as flags_of_hardware
from trellax.parallel.planning import aot_devices

TPUS = [name for name, chip in known_chips().items() if chip.platform == "tpu"]


def run(code, **variables):
    """Runs code in a process of its own, where no backend is running yet."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JAX_PLATFORMS": "cpu",
        **variables,
    }
    env.pop("XLA_FLAGS", None) if "XLA_FLAGS" not in variables else None
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["tpu-v5p-8", "tpu-v6e-4", "gpu-h100-8"])
def test_every_flag_has_a_reason(name):
    flags = xla_flags(hardware_named(name))
    assert flags and all(len(flag.reason) > 20 for flag in flags)
    assert len({flag.name for flag in flags}) == len(flags)


def test_flags_of_a_chip_are_for_that_chip_and_cpus_have_none():
    names = lambda hardware: {flag.name for flag in flags_of_hardware(hardware_named(hardware))}
    assert names("tpu-v6e-4") - names("tpu-v5p-8") == {"xla_tpu_scoped_vmem_limit_kib"}
    assert names("cpu") == names("trn2-16") == set()


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("chip", TPUS)
def test_libtpu_knows_the_flags(chip):
    hardware = hardware_named(f"{chip}-8")
    sharding = jax.sharding.SingleDeviceSharding(aot_devices(hardware)[0])
    lowered = jax.jit(jnp.sin).lower(jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=sharding))
    lowered.compile(compiler_options=dict(compiler_options(hardware)))
    with pytest.raises(Exception, match="No such compile option"):
        lowered.compile(compiler_options={"xla_tpu_no_such_flag": True})


def test_xla_knows_the_gpu_flags_and_has_retired_none():
    options = compiler_options(hardware_named("gpu-h100-8"))
    jax.jit(jnp.sin).lower(1.0).compile(compiler_options=dict(options))
    flags = " ".join(map(str, xla_flags(hardware_named("gpu-h100-8"))))
    code = "import jax; print(jax.numpy.ones(3).sum())"
    assert run(code, XLA_FLAGS=flags).stdout.strip() == "3.0"
    refused = run(code, XLA_FLAGS=f"{flags} --xla_gpu_no_such_flag=1")
    assert refused.returncode != 0 and "xla_gpu_no_such_flag" in refused.stderr


def test_flags_are_applied_before_the_backend_starts_and_keep_the_users():
    code = (
        "import os, jax\n"
        "from trellax.parallel import hardware_named\n"
        "from trellax.parallel.hardware import apply_xla_flags\n"
        "done = apply_xla_flags(hardware_named('gpu-h100-8'))\n"
        "assert jax.config.jax_num_cpu_devices == -1\n"
        "print(len(done), os.environ['XLA_FLAGS'])\n"
        "print(len(apply_xla_flags(hardware_named('gpu-h100-8'))), jax.device_count())"
    )
    users = "--xla_gpu_enable_triton_gemm=true --xla_force_host_platform_device_count=2"
    first, second = run(code, XLA_FLAGS=users).stdout.splitlines()
    assert first.startswith("5 " + users) and "triton_gemm=false" not in first
    assert "--xla_gpu_enable_latency_hiding_scheduler=true" in first
    assert second == "0 2"


def test_once_the_backend_runs_it_is_too_late():
    jax.devices()
    with pytest.raises(RuntimeError, match="after JAX's backend had started"):
        apply_xla_flags(hardware_named("gpu-h100-8"))
    assert apply_xla_flags(hardware_named("cpu")) == ()


@pytest.mark.parametrize(
    ("variables", "files", "platform"),
    [
        ({"JAX_PLATFORMS": "cpu"}, ["/dev/nvidia0"], "cpu"),
        ({"JAX_PLATFORMS": "cuda,cpu"}, [], "gpu"),
        ({"JAX_PLATFORMS": "tpu"}, [], "tpu"),
        ({}, ["/dev/nvidia0"], "gpu"),
        ({}, ["/dev/neuron0"], "neuron"),
        ({}, ["/dev/accel0"], "tpu"),
        ({"TPU_WORKER_ID": "0"}, ["/dev/vfio/0"], "tpu"),
        ({}, ["/dev/vfio/0"], "cpu"),
        ({}, [], "cpu"),
    ],
)
def test_the_platform_is_guessed_without_starting_it(monkeypatch, variables, files, platform):
    for name in ("JAX_PLATFORMS", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(environment.Path, "exists", lambda path: str(path) in files)
    assert environment.likely_platform() == platform


def test_compiling_without_a_tpu_leaves_the_users_variables_alone(monkeypatch):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-8")
    monkeypatch.delenv("ALLOW_MULTIPLE_LIBTPU_LOAD", raising=False)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "0")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "here")
    environment.prepare_libtpu_without_tpu()
    assert os.environ["TPU_ACCELERATOR_TYPE"] == "v6e-8"
    assert os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    monkeypatch.delenv("ALLOW_MULTIPLE_LIBTPU_LOAD")
