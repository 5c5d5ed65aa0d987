"""Two virtual CPU devices, and programs that are compiled quickly: what these tests cost is compilation, not arithmetic.

Both must be set before JAX's first use.
"""

import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_disable_most_optimizations", True)
