"""A train step on eight devices equals the same step on one, whatever the plan.

The model is a two-layer language model without attention: embedding, scanned gated feed-forward
blocks under remat, and a vocabulary projection, so that every rule about parameters and batch acts.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import TOLERANCE
from trellax.parallel import (
    AxisSizes,
    MeshShape,
    build_mesh,
    constrain,
    fsdp_rules,
    fsdp_tensor_rules,
    save_names,
    sharding_scope,
    shardings_for,
    tag,
)

B, S, D, F, V, L = 8, 6, 16, 32, 24, 2


@dataclasses.dataclass(frozen=True)
class Spec:
    shape: tuple[int, ...]
    logical_axes: tuple[str | None, ...]


SPECS = {
    "embedding": Spec((V, D), ("vocab", "embed")),
    "blocks": {
        "scale": Spec((L, D), ("layers", "norm")),
        "gate": Spec((L, D, F), ("layers", "embed", "mlp")),
        "up": Spec((L, D, F), ("layers", "embed", "mlp")),
        "down": Spec((L, F, D), ("layers", "mlp", "embed")),
    },
    "head": Spec((D, V), ("embed", "vocab")),
}

PLANS = {
    "fsdp": (fsdp_rules(), MeshShape(fsdp=-1)),
    "fsdp_rules_leave_model_unused": (fsdp_rules(), MeshShape(fsdp=4, model=2)),
    "fsdp_tensor": (fsdp_tensor_rules(), MeshShape(fsdp=4, model=2)),
    "data_fsdp_tensor": (fsdp_tensor_rules(), MeshShape(data=2, fsdp=2, model=-1)),
    "tensor": (fsdp_tensor_rules(), MeshShape(model=8)),
    "data": (fsdp_tensor_rules(), MeshShape(data=8)),
    "sequence": (fsdp_tensor_rules(), MeshShape(fsdp=4, seq=2)),
    "hybrid": (fsdp_tensor_rules(), MeshShape(fsdp=2, model=2, dcn=AxisSizes(data=2))),
}


def block(x_BSD, w):
    x_BSD = constrain(x_BSD, ("batch", "length", "act_embed"))
    norm_BSD = x_BSD * jax.lax.rsqrt(jnp.mean(x_BSD**2, -1, keepdims=True) + 1e-5) * w["scale"]
    hidden_BSF = jax.nn.silu(norm_BSD @ w["gate"]) * (norm_BSD @ w["up"])
    hidden_BSF = tag(constrain(hidden_BSF, ("batch", "length", "act_mlp")), "hidden")
    return x_BSD + constrain(hidden_BSF @ w["down"], ("batch", "length", "act_embed"))


def loss_fn(params, batch):
    policy = save_names("hidden").instantiate().policy()
    remat_block = jax.checkpoint(block, policy=policy, prevent_cse=False)
    x_BSD = params["embedding"][batch["input_ids"]]
    x_BSD, _ = jax.lax.scan(lambda x, w: (remat_block(x, w), None), x_BSD, params["blocks"])
    logits_BSV = constrain(x_BSD @ params["head"], ("batch", "length", "act_vocab"))
    log_probs = jax.nn.log_softmax(logits_BSV)
    return -jnp.mean(jnp.take_along_axis(log_probs, batch["target_ids"][..., None], -1))


def train_step(params, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    new_params = jax.tree.map(lambda p, g: p - 0.1 * g / (jnp.abs(g) + 1e-2), params, grads)
    return loss, grads, new_params


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    is_spec = lambda x: isinstance(x, Spec)
    params = jax.tree.map(
        lambda s: rng.normal(size=s.shape, scale=0.3).astype(np.float32), SPECS, is_leaf=is_spec
    )
    ids = rng.integers(V, size=(B, S + 1), dtype=np.int32)
    return params, {"input_ids": ids[:, :-1], "target_ids": ids[:, 1:]}


@pytest.fixture(scope="module")
def one_device(inputs):
    return jax.device_get(jax.jit(train_step)(*inputs))


def place(inputs, rules, mesh):
    params, batch = inputs
    by_batch = rules.spec(("batch", "length"), shape=(B, S), axis_sizes=mesh.shape)
    return (
        jax.device_put(params, shardings_for(SPECS, mesh, rules)),
        jax.device_put(batch, jax.sharding.NamedSharding(mesh, by_batch)),
    )


@pytest.mark.parametrize("plan", PLANS)
def test_loss_gradients_and_step_equal_one_device(plan, inputs, one_device):
    rules, shape = PLANS[plan]
    mesh = build_mesh(shape)
    with sharding_scope(mesh, rules):
        outputs = jax.jit(train_step)(*place(inputs, rules, mesh))
    jax.tree.map(
        lambda actual, expected: np.testing.assert_allclose(
            actual, expected, **TOLERANCE[str(expected.dtype)]
        ),
        jax.device_get(outputs),
        one_device,
    )


@pytest.mark.parametrize(
    ("plan", "held"),
    [("fsdp", (L, D // 8, F)), ("fsdp_tensor", (L, D // 4, F // 2)), ("data", (L, D, F))],
)
def test_a_device_holds_only_its_part_of_a_parameter(plan, held, inputs):
    rules, shape = PLANS[plan]
    params, _ = place(inputs, rules, build_mesh(shape))
    assert params["blocks"]["gate"].addressable_shards[0].data.shape == held


def test_new_parameters_keep_their_placement_when_it_is_asked_for(inputs):
    rules, shape = PLANS["fsdp_tensor"]
    mesh = build_mesh(shape)
    shardings = shardings_for(SPECS, mesh, rules)
    step = jax.jit(train_step, out_shardings=(None, shardings, shardings))
    with sharding_scope(mesh, rules):
        _, _, new_params = step(*place(inputs, rules, mesh))
    assert jax.tree.map(lambda p: p.sharding, new_params) == shardings
