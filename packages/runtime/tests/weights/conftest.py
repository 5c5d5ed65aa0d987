"""Eight virtual devices, and programs that are compiled quickly: they run once."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
