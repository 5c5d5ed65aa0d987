"""Bytes and recomputed FLOPs of remat policies are those of the layers' shapes."""

import jax
import jax.numpy as jnp
import pytest

from trellax.parallel import RematPolicy, offload_names, save_names, tag
from trellax.parallel.planning import (
    RematCost,
    pareto_front,
    remat_costs,
    saved_bytes,
    tagged_bytes,
)

LAYERS, ROWS, EMBED, MLP = 3, 4, 8, 16
UP, RESIDUAL = LAYERS * ROWS * MLP * 4, LAYERS * ROWS * EMBED * 4
LAST = ROWS * EMBED * 4
"""The stack's result, which the squared loss needs."""


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


ARGS = ((array(LAYERS, EMBED, MLP), array(LAYERS, MLP, EMBED)), array(ROWS, EMBED))


def loss(policy):
    def layer(x, w):
        up = tag(x @ w[0], "up")
        return tag(x + tag(jnp.tanh(up), "act") @ w[1], "out"), None

    if policy is not None:
        layer = jax.checkpoint(layer, policy=policy.instantiate().policy())
    return lambda params, x: jnp.sum(jax.lax.scan(layer, x, params)[0] ** 2)


def test_tags_are_counted_in_all_layers():
    assert tagged_bytes(loss(None), *ARGS) == {"up": UP, "act": UP, "out": RESIDUAL}


def test_tags_under_shard_map_are_counted_on_all_devices():
    mesh = jax.make_mesh((4,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("a")
    fn = lambda x: jax.shard_map(lambda x: tag(x, "x"), mesh=mesh, in_specs=spec, out_specs=spec)(x)
    assert tagged_bytes(fn, array(8, 2)) == {"x": 8 * 2 * 4}


@pytest.mark.parametrize(
    ("policy", "device", "host"),
    [
        (RematPolicy.Config(), RESIDUAL + LAST, 0),
        (save_names("up"), UP + RESIDUAL + LAST, 0),
        (offload_names("up"), RESIDUAL + LAST, UP),
    ],
    ids=["recompute", "save", "offload"],
)
def test_what_is_kept_is_what_the_policy_names_and_each_layers_input(policy, device, host):
    assert saved_bytes(loss(policy), *ARGS) == (device, host)


def test_recomputing_costs_the_flops_of_what_is_not_saved():
    costs = remat_costs(
        {
            "save all": loss(None),
            "save up": loss(save_names("up")),
            "recompute": loss(RematPolicy.Config()),
        },
        *ARGS,
    )
    recomputed = {cost.name: cost.recomputed_flops for cost in costs}
    assert recomputed == {"save all": 0, "save up": 0, "recompute": 2 * LAYERS * ROWS * EMBED * MLP}
    kept = {cost.name: cost.device_bytes for cost in costs}
    assert kept["recompute"] < kept["save up"] < kept["save all"]


def test_the_front_leaves_out_what_another_undercuts():
    small, fast, worse = (
        RematCost("small", 1, 0, 9),
        RematCost("fast", 5, 0, 0),
        RematCost("worse", 5, 0, 3),
    )
    hosted = RematCost("hosted", 1, 7, 0)
    assert pareto_front([worse, fast, small, hosted]) == [small, hosted, fast]
