"""A library of XLA FFI handlers: compiled, loaded and registered when it is first asked for.

LIBRARY.refusal()  ->  None, or the reason why it cannot be had
LIBRARY.target("trellax_matmul")  ->  the name to give to `jax.ffi.ffi_call`
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
from pathlib import Path

import jax

from trellax.kernels import placement
from trellax.kernels.native import settings
from trellax.kernels.native.compile import CompileError, compiled


@dataclasses.dataclass(frozen=True)
class Library:
    """C++ handlers that one source defines with XLA_FFI_DEFINE_HANDLER_SYMBOL.

    Attributes:
        package: import name of the package whose data the source is.
        source: file name, ending in .cc.
        handlers: the symbols.
        cache_dir: folder for compiled libraries; None for that of `settings`.
    """

    package: str
    source: str
    handlers: tuple[str, ...]
    cache_dir: Path | None = None

    def refusal(self) -> str | None:
        """Returns why the library cannot be used here, or None; the first call compiles, which takes seconds."""
        loaded = _load(self)
        return loaded if isinstance(loaded, str) else None

    def target(self, handler: str) -> str:
        """Returns the name under which a handler is registered. Call `refusal` before.

        It stands for the library's file, whose name is a digest of all that it was made from: a program that was compiled
        for another version, and kept, never calls this one.
        """
        loaded = _load(self)
        assert not isinstance(loaded, str), loaded
        return loaded[handler]


def cpu_refusal() -> str | None:
    """Why no native kernel may be used in the code being traced, wherever libraries stand."""
    if placement.platform() != "cpu":
        return f"runs on CPUs, and this is traced for {placement.platform()}"
    if not placement.is_per_device():
        return "sees one device's arrays only; call it inside jax.shard_map, or with one device"
    return None


@functools.cache
def _load(library: Library) -> dict[str, str] | str:
    """Registers a library's handlers; returns their names, or why there are none."""
    try:
        path = compiled(
            library.package, library.source, cache_dir=library.cache_dir or settings.cache_dir()
        )
        functions = ctypes.CDLL(str(path))
    except (CompileError, OSError) as error:
        return str(error)
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    names = {handler: f"{handler}.{digest}" for handler in library.handlers}
    for handler, name in names.items():
        capsule = jax.ffi.pycapsule(getattr(functions, handler))
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    return names
