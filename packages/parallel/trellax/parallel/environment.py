"""Everything that this package reads from the environment, or sets in it for libraries that read nothing else.

XLA and libtpu take their settings from environment variables, when their backend starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_LIBTPU_WITHOUT_TPU = {
    # Do not ask Cloud's metadata server which machine this is; there is none to ask on a laptop.
    "TPU_SKIP_MDS_QUERY": "1",
    # Only silence complaints: the topology that is compiled for is named with each compilation.
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Otherwise a second process that compiles at the same time aborts over a lock file.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def prepare_libtpu_without_tpu() -> None:
    """Sets what libtpu needs to compile where there is no TPU; leaves variables that are set alone."""
    for name, value in _LIBTPU_WITHOUT_TPU.items():
        os.environ.setdefault(name, value)


def add_flags(variable: str, flags: Iterable[str]) -> tuple[str, ...]:
    """Appends flags to a variable such as XLA_FLAGS, without those that it names already.

    Args:
        variable: name of the environment variable.
        flags: as "--name=value".

    Returns:
        The flags that were added.
    """
    present = os.environ.get(variable, "").split()
    named = {_flag_name(flag) for flag in present}
    added = tuple(flag for flag in flags if _flag_name(flag) not in named)
    if added:
        os.environ[variable] = " ".join([*present, *added])
    return added


def likely_platform() -> str:
    """Returns the platform that JAX will probably choose, without starting it: "tpu", "gpu", "neuron" or "cpu".

    JAX_PLATFORMS decides where it is set. Else the devices that the operating system shows: /dev/nvidia0 (GPU), /dev/neuron0
    (Trainium), /dev/accel0 or /dev/vfio/0 (TPU). /dev/vfio may also be there for other reasons, so it counts only with the
    variables that Cloud sets on TPU machines.
    """
    chosen = os.environ.get("JAX_PLATFORMS", "").split(",")[0].strip().lower()
    if chosen:
        return "gpu" if chosen in ("cuda", "rocm") else chosen
    if Path("/dev/nvidia0").exists():
        return "gpu"
    if Path("/dev/neuron0").exists():
        return "neuron"
    on_tpu_machine = any(
        v in os.environ for v in ("TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE", "TPU_NAME")
    )
    if Path("/dev/accel0").exists() or (Path("/dev/vfio/0").exists() and on_tpu_machine):
        return "tpu"
    return "cpu"


def _flag_name(flag: str) -> str:
    return flag.lstrip("-").split("=")[0].removeprefix("no")
