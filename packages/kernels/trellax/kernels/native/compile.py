"""Compiles a C++ source that ships with the package into a shared library, once for each machine, compiler and source.

    path = compiled("trellax.kernels.matmul", "matmul.cc", cache_dir=folder)

The file's name is a digest of all that its content depends on, and it appears under that name only when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-ffp-contract=fast", "-w")
"""No -ffast-math: it would let sums be reordered, and have other code of the process flush denormal numbers."""


class CompileError(Exception):
    """There is no library, and this is why."""


def compiled(package: str, source: str, *, cache_dir: Path) -> Path:
    """Returns the shared library made from `source` in `package`, compiled now if it is not in the cache.

    Args:
        package: import name of the package whose data `source` is; its headers and those of this package can be
            included by name.
        source: file name, ending in .cc.
        cache_dir: folder for libraries; made if it is missing.

    Raises:
        CompileError: no compiler is found, it fails, or the folder cannot be written.
    """
    compiler = next((path for path in map(shutil.which, COMPILERS) if path), None)
    if compiler is None:
        raise CompileError(f"no C++ compiler is found; looked for {', '.join(COMPILERS)}")
    files = _sources(package, source)
    command = [compiler, *FLAGS, _this_machine_flag(), f"-I{jax.ffi.include_dir()}"]
    target = cache_dir / f"{Path(source).stem}-{_digest(files, command)}.so"
    if target.exists():
        return target
    try:
        cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _one_at_a_time(target.with_suffix(".lock")):
            if not target.exists():
                _compile(command, files, source, target)
    except OSError as error:
        raise CompileError(
            f"{cache_dir} cannot be written ({error}); set TRELLAX_CACHE_DIR"
        ) from error
    return target


def _sources(package: str, source: str) -> dict[str, str]:
    """Name and text of the source and of every header that it may include."""
    files = {source: importlib.resources.files(package).joinpath(source).read_text()}
    for folder in (__package__, package):
        for entry in importlib.resources.files(folder).iterdir():
            if entry.name.endswith(".h"):
                files[entry.name] = entry.read_text()
    return files


def _compile(command: list[str], files: dict[str, str], source: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".compiling-", dir=target.parent) as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        fresh = Path(folder) / target.name
        paths = [f"-I{folder}", str(Path(folder) / source), "-o", str(fresh)]
        done = subprocess.run([*command, *paths], capture_output=True, text=True)
        if done.returncode:
            raise CompileError(f"{command[0]} fails on {source}: {done.stderr.strip()[:2000]}")
        fresh.rename(target)


def _digest(files: dict[str, str], command: list[str]) -> str:
    """Sixteen hexadecimal digits of the sources, the command, the compiler, this CPU and jaxlib."""
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout
    parts = [*command, version, jaxlib.__version__, _cpu(), *sorted(files), *files.values()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _this_machine_flag() -> str:
    """Asks for this CPU's instructions: Arm's compilers spell it differently."""
    return "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


def _cpu() -> str:
    """What this CPU is and can, as far as the operating system says."""
    wanted = ("model name", "flags", "Features", "CPU part")
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
    return f"{platform.machine()} {platform.processor()}"


@contextlib.contextmanager
def _one_at_a_time(lock_file: Path) -> Iterator[None]:
    """Waits until no other process compiles the same; it only saves work, so where there are no locks it does nothing."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
