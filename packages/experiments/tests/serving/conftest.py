"""Programs that are compiled quickly, and found by later engines of the process: what these tests cost is compilation.

Must be set before JAX's first use.
"""

import tempfile

import jax

COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")

jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
