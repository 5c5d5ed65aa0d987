"""Compiled train steps as files: made once, on any machine, and loaded where they run.

    save_executable("step.trellax", compiled, fingerprint_of(lowered, devices))
    step_fn = load_executable("step.trellax", fingerprint_of(lowered, devices), devices)

A file is good for one program on one kind of hardware, with the versions that made it. The *fingerprint* says which: a
hash of the lowered program (so of the whole config), the devices, and JAX's version. A file with another one is refused,
never used and never ignored. The compiler's flags are those that it was compiled with.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from trellax.runtime.files import write_atomically

_FORMAT = "trellax executable 1"
_NOT_OURS = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
)
"""What unpickling, or taking apart, raises for files that are something else."""


class ExecutableMismatchError(ValueError):
    """A file holds another program than the one that is about to run, or no program."""


def fingerprint_of(lowered: jax.stages.Lowered, devices: Sequence[Any]) -> dict[str, str]:
    """Returns what a compiled program depends on, by name.

    Args:
        lowered: the program before it is compiled.
        devices: what it is compiled for.
    """
    device = devices[0]
    return {
        "program": hashlib.sha256(lowered.as_text().encode()).hexdigest(),
        "devices": f"{len(devices)} x {device.device_kind}",
        "jax": jax.__version__,
    }


def save_executable(
    file: str | Path, compiled: jax.stages.Compiled, fingerprint: dict[str, str]
) -> int:
    """Writes a compiled program; returns the number of bytes."""
    payload, in_tree, out_tree = serialize_executable.serialize(compiled)
    content = pickle.dumps((_FORMAT, fingerprint, payload, in_tree, out_tree))
    write_atomically(file, content)
    return len(content)


def load_executable(
    file: str | Path, fingerprint: dict[str, str], devices: Sequence[Any]
) -> jax.stages.Compiled:
    """Returns the compiled program of a file, loaded onto the devices.

    The file is unpickled: load only what you or your build made.

    Args:
        file: made by `save_executable`.
        fingerprint: of the program that is to run.
        devices: those that it runs on, in the order of the mesh.

    Raises:
        ExecutableMismatchError: naming what differs.
    """
    try:
        name, found, payload, in_tree, out_tree = pickle.loads(Path(file).read_bytes())
    except _NOT_OURS as e:
        raise ExecutableMismatchError(f"{file} holds no compiled train step.") from e
    if name != _FORMAT:
        raise ExecutableMismatchError(f"{file} holds no compiled train step of this version.")
    differing = [
        f"\n  {key}: {found.get(key, 'unknown')!r} in the file, {value!r} here"
        for key, value in fingerprint.items()
        if found.get(key) != value
    ]
    if differing:
        raise ExecutableMismatchError(
            f"{file} was compiled for another run; compile it again, or leave it out:"
            + "".join(differing)
        )
    return serialize_executable.deserialize_and_load(
        payload, in_tree, out_tree, execution_devices=list(devices)
    )
