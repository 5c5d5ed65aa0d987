"""Eight virtual CPU devices; and each program runs once, so to optimize it would take longer than to run it."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
