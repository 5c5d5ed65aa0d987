"""Eight virtual CPU devices for every test of this folder; must be set before JAX's first use."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
