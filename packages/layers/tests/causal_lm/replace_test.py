"""`replace_config` puts a mixture of experts into a Llama: only the feed-forward node changes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from tests.calls import built, called
from tests.causal_lm.models import D, F, small_batch, small_config
from trellax.config import replace_config
from trellax.layers.feed_forward import FeedForwardLayer
from trellax.layers.module import total_loss
from trellax.layers.moe import MoELayer
from trellax.layers.stack import ScannedStack, UnrolledStack


def moe_config(stack: Any = ScannedStack) -> Any:
    cfg = small_config(stack)
    cfg.decoder.stack.layer.feed_forward.activation = "gelu"
    moe = MoELayer.default_config().set(num_experts=4)
    assert replace_config(cfg, FeedForwardLayer, moe) == ["decoder.stack.layer.feed_forward"]
    return cfg


def leaves(cfg: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    cfg.visit(visit_fn=found.__setitem__)
    return found


def test_only_the_feed_forward_node_changes():
    before, after = leaves(small_config()), leaves(moe_config())
    changed = {
        path
        for path in before.keys() | after.keys()
        if path not in before or path not in after or before[path] != after[path]
    }
    assert changed
    assert all(path.startswith("decoder.stack.layer.feed_forward.") for path in changed)


def test_fields_that_were_set_are_carried_over_and_the_rest_is_derived():
    node = moe_config().decoder.stack.layer.feed_forward
    assert (node.hidden_dim, node.activation, node.num_experts) == (F, "gelu", 4)
    specs = moe_config().instantiate().all_parameter_specs()
    up = specs["decoder"]["stack"]["layer"]["feed_forward"]["experts"]["up"]
    assert up.shape == (2, 4, D, F)
    assert up.logical_axes == ("layers", "experts", "embed", "mlp")


@pytest.mark.parametrize("stack", [ScannedStack, UnrolledStack])
def test_steps_of_gradient_descent_learn(stack: Any):
    model, params = built(moe_config(stack))
    batch = small_batch()

    def loss(params: Any) -> Any:
        output, collection = called(model, params, batch, training=True)
        return output.total / output.weight + total_loss(collection), collection

    @jax.jit
    def step(params: Any) -> Any:
        (value, collection), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, collection, jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)

    values = []
    for _ in range(4):
        value, collection, params = step(params)
        values.append(float(value))
    assert np.isfinite(values).all() and values == sorted(values, reverse=True)
    router = collection.losses["decoder"]["stack"]["layer"]["feed_forward"]["router"]
    assert router["load_balance"].shape == ()
    assert set(collection.summaries["decoder"]["stack"]) == {"layer0", "layer1"}
