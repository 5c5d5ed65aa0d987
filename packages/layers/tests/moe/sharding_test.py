"""A mixture of experts on eight devices equals one on a single device: loss, gradients, summaries, losses."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.calls import assert_trees_equal, built, called, draws
from tests.moe.layers import C, D, E, F, objective, small_config
from tests.tolerances import TOLERANCE
from trellax.layers.module import functional
from trellax.layers.moe import (
    CapacityDispatch,
    DroplessDispatch,
    GatedSharedExpert,
    LoadBalancingBias,
    SigmoidRouter,
)
from trellax.layers.stack import ScannedStack
from trellax.parallel import (
    MeshShape,
    RematPolicy,
    build_mesh,
    fsdp_tensor_rules,
    sharding_scope,
    shardings_for,
    tagged_names,
)

B, S = 8, 4
MESHES = {
    "expert=2,data=4": {"expert": 2, "data": 4},
    "expert=4,fsdp=2": {"expert": 4, "fsdp": 2},
    "expert=8": {"expert": 8},
    "expert=2,model=4": {"expert": 2, "model": 4},
    "data=2,expert=2,fsdp=2": {"data": 2, "expert": 2, "fsdp": 2},
    "expert=4,seq=2": {"expert": 4, "seq": 2},
    "expert=2,seq=2,model=2": {"expert": 2, "seq": 2, "model": 2},
    "fsdp=4,model=2": {"fsdp": 4, "model": 2},
}
DISPATCHES = {
    "dropless": DroplessDispatch.default_config(),
    "roomy": DroplessDispatch.default_config().set(buffer_factor=8.0),
    "capacity": CapacityDispatch.default_config().set(capacity_factor=E / C),
}


def trained(layer: Any, params: Any, x_BSD: Any) -> Any:
    fn = functools.partial(objective, layer)
    return jax.jit(jax.value_and_grad(fn, argnums=(0, 1), has_aux=True))(params, x_BSD)


def trained_on(sizes: dict[str, int], layer: Any, params: Any, x_BSD: Any) -> Any:
    mesh, rules = build_mesh(MeshShape(**sizes)), fsdp_tensor_rules()
    with sharding_scope(mesh, rules):
        shardings = shardings_for(layer.all_parameter_specs(), mesh, rules)
        return trained(layer, jax.device_put(params, shardings), x_BSD)


@functools.cache
def single_device(name: str) -> Any:
    layer, params = built(small_config(dispatch=DISPATCHES[name]))
    return layer, params, trained(layer, params, draws(1, B, S, D))


@pytest.mark.parametrize(
    ("mesh", "dispatch"),
    [
        *((mesh, dispatch) for mesh in MESHES for dispatch in ("dropless", "capacity")),
        ("expert=4,fsdp=2", "roomy"),
    ],
)
def test_meshes_equal_one_device(mesh: str, dispatch: str):
    layer, params, expected = single_device(dispatch)
    got = trained_on(MESHES[mesh], layer, params, draws(1, B, S, D))
    assert_trees_equal(got, expected, **TOLERANCE["float32"])


@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
def test_a_batch_that_cannot_be_split_shares_out_the_experts(dispatch: str):
    layer, params, _ = single_device(dispatch)
    x_BSD = draws(1, 1, 3, D)
    got = trained_on({"expert": 4, "model": 2}, layer, params, x_BSD)
    assert_trees_equal(got, trained(layer, params, x_BSD), **TOLERANCE["float32"])


def test_everything_at_once_equals_one_device():
    router = SigmoidRouter.default_config().set(
        selection_bias=LoadBalancingBias.default_config(), num_groups=4, groups_per_token=2
    )
    shared = GatedSharedExpert.default_config()
    shared.expert.hidden_dim = F
    layer, params = built(small_config(router=router, shared_expert=shared))
    x_BSD = draws(1, B, S, D)
    got = trained_on({"data": 2, "expert": 2, "model": 2}, layer, params, x_BSD)
    assert_trees_equal(got, trained(layer, params, x_BSD), **TOLERANCE["float32"])


@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
def test_stacks_that_scan_and_rematerialize_equal_one_device(dispatch: str):
    policy = RematPolicy.Config(save=("moe_rows", "router_experts", "ffn_up"))
    cfg = small_config(dispatch=DISPATCHES[dispatch], remat=policy)
    layer, params = built(ScannedStack.default_config().set(layer=cfg, num_layers=2, input_dim=D))
    x_BSD = draws(1, B, S, D)
    got = trained_on({"expert": 4, "model": 2}, layer, params, x_BSD)
    assert_trees_equal(got, trained(layer, params, x_BSD), **TOLERANCE["float32"])


@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
def test_vmap_over_pipeline_stages_equals_a_loop(dispatch: str):
    """As a pipelined stack calls it: stages are a vmapped dim that the mesh splits."""
    layer, _ = built(small_config(dispatch=DISPATCHES[dispatch]))
    params = jax.vmap(layer.init)(jax.random.split(jax.random.key(0), 2))
    x_LBSD = draws(1, 2, B, S, D)
    fn = lambda p, x: jax.value_and_grad(functools.partial(objective, layer), has_aux=True)(p, x)
    expected = jax.jit(lambda p, x: jax.lax.map(lambda px: fn(*px), (p, x)))(params, x_LBSD)
    with sharding_scope(build_mesh(MeshShape(pipeline=2, expert=2, fsdp=2)), fsdp_tensor_rules()):
        got = jax.jit(jax.vmap(fn, spmd_axis_name="pipeline"))(params, x_LBSD)
    assert_trees_equal(got, expected, **TOLERANCE["float32"])


def test_activations_have_names_for_remat_policies():
    layer, params = built(small_config())
    call = lambda p, x: functional(layer, params=p, args=(x,), is_training=True)[0]
    with sharding_scope(build_mesh(MeshShape(expert=8)), fsdp_tensor_rules()):
        names = tagged_names(call, params, draws(1, B, S, D))
    expected = {"router_weights", "router_experts", "moe_rows", "ffn_up", "ffn_gate", "ffn_down"}
    assert expected <= names


@pytest.mark.parametrize("buffer_factor", [1.0, 2.0])
def test_what_overflows_a_buffer_is_dropped_and_counted(buffer_factor: float):
    """All tokens choose experts of the first device, which has room for a part of each sender's rows."""
    dispatch = DroplessDispatch.default_config().set(buffer_factor=buffer_factor)
    layer, params = built(small_config(dispatch=dispatch))
    params["router"]["weight"] = jnp.zeros((D, E)).at[:, 0].set(9.0).at[:, 1].set(8.0)
    x_BSD = jnp.abs(draws(1, B, S, D)) + 0.1
    exact, _ = called(built(small_config())[0], params, x_BSD)
    with sharding_scope(build_mesh(MeshShape(expert=4, data=2)), fsdp_tensor_rules()):
        y_BSD, out = jax.jit(functools.partial(called, layer))(params, x_BSD)
    kept = buffer_factor / 4
    np.testing.assert_allclose(out.summaries["dispatch"]["overflow_fraction"], 1 - kept)
    # Each of 8 devices sends its row of S tokens; the first expert's rows come first.
    whole = [np.allclose(a, b, **TOLERANCE["float32"]) for a, b in zip(y_BSD, exact)]
    assert not any(whole)
    changed = np.abs(np.asarray(y_BSD)).sum(-1) > 1e-6
    np.testing.assert_array_equal(changed.sum(axis=1), min(S, round(S * C * kept)))
