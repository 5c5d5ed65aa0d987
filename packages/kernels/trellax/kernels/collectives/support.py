"""Collectives that not every compiler has, and why one cannot be used here.

if ragged_all_to_all_refusal() is None:
    jax.lax.ragged_all_to_all(...)
"""

from __future__ import annotations

from trellax.kernels import placement

HAVE_RAGGED_ALL_TO_ALL = ("tpu", "gpu")
"""Platforms whose compiler has the instruction; XLA:CPU says UNIMPLEMENTED."""


def ragged_all_to_all_refusal() -> str | None:
    """Returns why `jax.lax.ragged_all_to_all` cannot be used by the code being traced, or None if it can."""
    platform = placement.platform()
    if platform in HAVE_RAGGED_ALL_TO_ALL:
        return None
    return f"the compiler for {platform} has no ragged all-to-all; {' and '.join(HAVE_RAGGED_ALL_TO_ALL)} have"
