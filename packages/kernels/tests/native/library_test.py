"""Libraries are compiled once, found again, and refused with a reason where they cannot be had."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from trellax.kernels.native import Library, compile, cpu_refusal, settings

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, compile.COMPILERS)), reason="no C++ compiler"
)

SOURCE = """
#include "parallel.h"

// out[i] = 2 x[i], an item each; items of one call may run on any thread.
static xla::ffi::Error Double(xla::ffi::ThreadPool pool, xla::ffi::Buffer<xla::ffi::F32> x,
                              xla::ffi::Result<xla::ffi::Buffer<xla::ffi::F32>> out) {
  const float* from = x.typed_data();
  float* to = out->typed_data();
  trellax::ParallelFor(pool, x.element_count(), 1e6, [&](int64_t i) { to[i] = 2 * from[i]; });
  return xla::ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(double_it, Double,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>());
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package whose data is a C++ source."""
    folder = tmp_path / "a_native_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "double.cc").write_text(SOURCE)
    (folder / "wrong.cc").write_text("int f( {")
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_a_library_runs_on_the_threads_of_xla(package: str, tmp_path: Path) -> None:
    library = Library(package, "double.cc", ("double_it",), cache_dir=tmp_path / "cache")
    assert library.refusal() is None
    fn = jax.ffi.ffi_call(library.target("double_it"), jax.ShapeDtypeStruct((1000,), jnp.float32))
    x = jnp.arange(1000, dtype=jnp.float32)
    for _ in range(50):
        np.testing.assert_array_equal(jax.jit(fn)(x), 2 * x)


def test_calls_that_run_at_once_all_finish(package: str, tmp_path: Path) -> None:
    library = Library(package, "double.cc", ("double_it",), cache_dir=tmp_path / "cache")
    assert library.refusal() is None
    fn = jax.ffi.ffi_call(library.target("double_it"), jax.ShapeDtypeStruct((64,), jnp.float32))
    many = jax.jit(lambda xs: [fn(x) for x in xs])
    xs = [jnp.full(64, i, jnp.float32) for i in range(40)]
    results = [many(xs) for _ in range(20)]
    for outs in results:
        for i, out in enumerate(outs):
            np.testing.assert_array_equal(out, np.full(64, 2.0 * i, np.float32))


def test_a_library_is_compiled_once(package: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = compile.compiled(package, "double.cc", cache_dir=cache)
    written = path.stat().st_mtime_ns
    assert compile.compiled(package, "double.cc", cache_dir=cache) == path
    assert path.stat().st_mtime_ns == written
    assert [x.name for x in cache.iterdir() if x.suffix != ".lock"] == [path.name]
    assert ctypes.CDLL(str(path)).double_it


def test_another_source_or_compiler_is_another_library(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest() -> str:
        return compile._digest({"a.cc": "int a;"}, ["c++", *compile.FLAGS])

    first = digest()
    assert first == digest()
    assert first != compile._digest({"a.cc": "int b;"}, ["c++", *compile.FLAGS])
    monkeypatch.setattr(compile, "_cpu", lambda: "another")
    assert digest() != first
    monkeypatch.undo()
    monkeypatch.setattr("jaxlib.__version__", "0.0.1")
    assert digest() != first


def test_an_error_of_the_compiler_is_the_reason(package: str, tmp_path: Path) -> None:
    library = Library(package, "wrong.cc", ("f",), cache_dir=tmp_path / "cache")
    assert "fails on wrong.cc" in str(library.refusal()) and "error" in str(library.refusal())
    assert not list((tmp_path / "cache").glob("*.so"))


def test_without_a_compiler_there_is_no_library(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    library = Library(package, "double.cc", ("double_it",), cache_dir=tmp_path / "no_compiler")
    assert library.refusal() == "no C++ compiler is found; looked for c++, g++, clang++"


def test_a_cache_that_cannot_be_written_is_named(package: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    library = Library(package, "double.cc", ("double_it",), cache_dir=tmp_path / "file" / "cache")
    assert "cannot be written" in str(library.refusal())
    assert "TRELLAX_CACHE_DIR" in str(library.refusal())


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    monkeypatch.delenv("TRELLAX_CACHE_DIR", raising=False)
    assert settings.cache_dir() == Path("/x/cache/trellax/native")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert settings.cache_dir() == Path.home() / ".cache/trellax/native"
    monkeypatch.setenv("TRELLAX_CACHE_DIR", "/y")
    assert settings.cache_dir() == Path("/y/native")


def test_native_kernels_see_one_device() -> None:
    assert "one device" in str(cpu_refusal())
    with jax.set_mesh(Mesh(jax.devices()[:1], ("model",))):
        assert cpu_refusal() is None


def test_importing_writes_and_compiles_nothing(tmp_path: Path) -> None:
    import subprocess
    import sys

    environment = os.environ | {
        "TRELLAX_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    program = "import trellax.kernels.matmul, trellax.kernels.paged_attention"
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert not (tmp_path / "cache").exists()
