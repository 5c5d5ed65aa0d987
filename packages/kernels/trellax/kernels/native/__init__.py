"""Kernels in C++ for CPUs: compiled where they run, at first use, and called from XLA programs on XLA's own threads.

LIBRARY = Library("trellax.kernels.matmul", source="matmul.cc", handlers=("trellax_matmul",))
LIBRARY.refusal()                                  # None, or why there is no compiled library
jax.ffi.ffi_call(LIBRARY.target("trellax_matmul"), out)(x, weight)

An op's `native.py` refuses with `refusal`, so that where there is no compiler XLA serves.
"""

from trellax.kernels.native.library import Library, cpu_refusal

__all__ = ["Library", "cpu_refusal"]
