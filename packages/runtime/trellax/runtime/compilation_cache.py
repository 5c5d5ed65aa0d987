"""JAX's persistent compilation cache, on unless the user has decided otherwise.

    use_compilation_cache()  # a restarted run compiles nothing again

The folder is `cache_dir()/compiled`. JAX's own settings win: `JAX_COMPILATION_CACHE_DIR` chooses another folder,
`JAX_ENABLE_COMPILATION_CACHE=0` switches the cache off. On CPUs the folder is one for each kind of CPU, as a program for
one may hold instructions that another lacks.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import jax

from trellax.runtime import settings

_CPU_FACTS = Path("/proc/cpuinfo")


def use_compilation_cache(*, min_compile_s: float | None = None) -> None:
    """Sets the folder of the cache, if no one has; cheap to call again.

    Args:
        min_compile_s: seconds that a program must take to compile to be kept, for those who start with many small ones; None
            leaves it to JAX: one second.
    """
    if min_compile_s is not None:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", min_compile_s)
    if jax.config.jax_compilation_cache_dir is None:
        folder = settings.cache_dir() / "compiled" / _kind_of_machine()
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _kind_of_machine() -> str:
    if jax.default_backend() != "cpu":
        return jax.default_backend()
    facts = _CPU_FACTS.read_text() if _CPU_FACTS.exists() else platform.processor()
    features = {line for line in facts.splitlines() if line.startswith(("flags", "Features"))}
    digest = hashlib.sha256("".join(sorted(features)).encode()).hexdigest()
    return f"cpu-{platform.machine()}-{digest[:12]}"
