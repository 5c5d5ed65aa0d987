"""The small layer that tests on meshes train.

loss, (summaries, losses, state_updates) = objective(*built(small_config()), x_BSD)
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from tests.calls import called
from trellax.layers.module import total_loss
from trellax.layers.moe import MoELayer

D, F, E, C = 8, 8, 8, 2


def small_config(**fields: Any) -> Any:
    defaults = {"input_dim": D, "hidden_dim": F, "num_experts": E, "experts_per_token": C}
    return MoELayer.default_config().set(**{**defaults, **fields})


def objective(layer: Any, params: Any, x_BSD: Any) -> Any:
    y_BSD, out = called(layer, params, x_BSD, training=True)
    loss = jnp.mean(jnp.sin(y_BSD)) + total_loss(out)
    return loss, (out.summaries, out.losses, out.state_updates)
