"""Eight virtual CPU devices; must be set before JAX's first use."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
