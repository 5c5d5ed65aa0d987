"""A small training step over a mesh: two matrices a layer, scanned, FSDP and tensor parallel by hand."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

LAYERS, ROWS, EMBED, MLP = 3, 64, 32, 128


def lowered_step(mesh, *, donate=True):
    """Returns the lowered step `w - grad(loss)(w)` whose arguments lie on the mesh."""
    batch = NamedSharding(mesh, PartitionSpec("fsdp"))
    hidden = NamedSharding(mesh, PartitionSpec("fsdp", "model"))

    def step(params, x):
        def loss(params):
            def layer(x, w):
                h = jax.lax.with_sharding_constraint(jnp.tanh(x @ w["up"]), hidden)
                return jax.lax.with_sharding_constraint(x + h @ w["down"], batch), None

            return jnp.sum(jax.lax.scan(layer, x, params)[0] ** 2)

        return jax.tree.map(jnp.subtract, params, jax.grad(loss)(params))

    up = NamedSharding(mesh, PartitionSpec(None, "fsdp", "model"))
    down = NamedSharding(mesh, PartitionSpec(None, "model", "fsdp"))
    params = {
        "up": jax.ShapeDtypeStruct((LAYERS, EMBED, MLP), jnp.float32, sharding=up),
        "down": jax.ShapeDtypeStruct((LAYERS, MLP, EMBED), jnp.float32, sharding=down),
    }
    x = jax.ShapeDtypeStruct((ROWS, EMBED), jnp.float32, sharding=batch)
    jitted = jax.jit(
        step, donate_argnums=(0,) if donate else (), out_shardings={"up": up, "down": down}
    )
    return jitted.lower(params, x)
