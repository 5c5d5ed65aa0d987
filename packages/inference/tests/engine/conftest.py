"""Two virtual CPU devices, and programs that are compiled quickly: what these tests cost is compilation, not arithmetic.

Engines of one process find programs that an earlier one compiled. All must be set before JAX's first use.
"""

import tempfile

import jax

COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
