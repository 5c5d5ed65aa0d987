"""Rows that travel between devices: the arithmetic of the ragged exchange, and programs compiled for TPUs.

XLA:CPU has no ragged all-to-all. So its offsets are checked against what the instruction is documented to do, in
numpy, and the program that uses it is compiled for a TPU ahead of time.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calls import built, called, draws
from tests.moe.layers import objective, small_config
from tests.tolerances import TOLERANCE
from trellax.layers.moe import CapacityDispatch, DroplessDispatch, dropless
from trellax.layers.moe.exchange import (
    ragged_offsets,
    ragged_return_offsets,
    ragged_taken,
    rows_per_pair,
)
from trellax.parallel import (
    MeshShape,
    build_mesh,
    fsdp_tensor_rules,
    hardware_named,
    sharding_scope,
    shardings_for,
)
from trellax.parallel.planning import aot_devices

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def ragged_all_to_all(operands: Any, outputs: Any, offsets: Any) -> list[np.ndarray]:
    """What `jax.lax.ragged_all_to_all` documents; `offsets` has the four arrays of each device."""
    results = [np.array(out) for out in outputs]
    for source, (begins, sizes, arrives, _) in enumerate(offsets):
        for target, (begin, size, arrive) in enumerate(zip(begins, sizes, arrives)):
            assert size == offsets[target][3][source], "Both sides agree on the size."
            assert begin + size <= len(operands[source]) and arrive + size <= len(results[target])
            sent = operands[source][begin : begin + size]
            results[target][arrive : arrive + size] = sent
    return results


@settings(max_examples=40, deadline=None)
@given(data=st.data(), num_peers=st.integers(1, 4))
def test_ragged_rows_arrive_in_order_and_return_to_their_places(data: Any, num_peers: int):
    num_copies = 6
    draw = lambda: data.draw(st.integers(0, num_peers - 1))
    targets = [sorted(draw() for _ in range(num_copies)) for _ in range(num_peers)]
    counts = np.stack([np.bincount(t, minlength=num_peers) for t in targets])
    num_rows = data.draw(st.integers(1, num_peers * num_copies))
    taken = np.asarray(ragged_taken(jnp.asarray(counts), num_rows))
    rows = [100 * (p + 1) + np.arange(num_copies) for p in range(num_peers)]  # Says whence it came.

    offsets_of = lambda fn: [
        [np.asarray(x) for x in fn(jnp.asarray(counts), jnp.asarray(taken), me)]
        for me in range(num_peers)
    ]
    empty = lambda num: [np.zeros(num, int)] * num_peers
    there = ragged_all_to_all(rows, empty(num_rows), offsets_of(ragged_offsets))
    for target, got in enumerate(there):
        wanted = np.concatenate([r[np.equal(t, target)] for r, t in zip(rows, targets)])[:num_rows]
        np.testing.assert_array_equal(got, np.pad(wanted, (0, num_rows - len(wanted))))
    back = ragged_all_to_all(there, empty(num_copies), offsets_of(ragged_return_offsets))
    arrived = set(np.concatenate(there)) - {0}
    for sent, got in zip(rows, back):
        np.testing.assert_array_equal(got, [row if row in arrived else 0 for row in sent])


def emulated(
    rows: Any, out: Any, begins: Any, sizes: Any, arrives: Any, taken: Any, *, axis_name: Any
) -> Any:
    """The instruction by means of an all-gather, which XLA:CPU has."""
    gathered = jax.lax.all_gather((rows, begins, sizes, arrives), axis_name)
    rows_PMD, begins_PP, sizes_PP, arrives_PP = gathered
    me, row_R = jax.lax.axis_index(axis_name), jnp.arange(out.shape[0])
    for source in range(rows_PMD.shape[0]):
        start = arrives_PP[source, me]
        in_slice_R = (row_R >= start) & (row_R < start + sizes_PP[source, me])
        index_R = jnp.where(in_slice_R, begins_PP[source, me] + row_R - start, 0)
        out = jnp.where(in_slice_R[:, None], rows_PMD[source][index_R], out)
    return out


@pytest.mark.parametrize("buffer_factor", [None, 8.0])
def test_the_ragged_exchange_equals_the_dense_one(buffer_factor: Any, monkeypatch: Any):
    x_BSD = draws(1, 8, 4, 8)
    results = {}
    for kind in ("dense", "ragged"):
        dispatch = DroplessDispatch.default_config().set(exchange=kind, buffer_factor=buffer_factor)
        layer, params = built(small_config(dispatch=dispatch))
        monkeypatch.setattr(dropless, "ragged_all_to_all_refusal", lambda: None)
        monkeypatch.setattr(jax.lax, "ragged_all_to_all", emulated)
        with sharding_scope(build_mesh(MeshShape(data=2, expert=4)), fsdp_tensor_rules()):
            fn = jax.value_and_grad(functools.partial(objective, layer), has_aux=True)
            results[kind] = jax.jit(fn)(params, x_BSD)
    close = functools.partial(np.testing.assert_allclose, **TOLERANCE["float32"])
    jax.tree.map(close, results["ragged"], results["dense"])


def test_a_ragged_buffer_bounds_the_sum_of_all_senders(monkeypatch: Any):
    """Each sender's share is uneven, the sum is not: pairs' buffers overflow, the ragged one does not."""
    monkeypatch.setattr(dropless, "ragged_all_to_all_refusal", lambda: None)
    monkeypatch.setattr(jax.lax, "ragged_all_to_all", emulated)
    lost = {}
    for kind in ("dense", "ragged"):
        dispatch = DroplessDispatch.default_config().set(exchange=kind, buffer_factor=1.0)
        cfg = small_config(dispatch=dispatch, experts_per_token=1)
        layer, params = built(cfg)
        params["router"]["weight"] = 9.0 * jnp.eye(8)
        x_BSD = jnp.repeat(jnp.eye(8)[:, None], 4, axis=1)  # Row b goes to expert b.
        with sharding_scope(build_mesh(MeshShape(expert=8)), fsdp_tensor_rules()):
            _, out = jax.jit(functools.partial(called, layer))(params, x_BSD)
        lost[kind] = float(out.summaries["dispatch"]["overflow_fraction"])
    assert lost == {"dense": 0.75, "ragged": 0.0}


def test_a_collective_that_the_platform_lacks_is_refused():
    dispatch = DroplessDispatch.default_config().set(exchange="ragged")
    layer, params = built(small_config(dispatch=dispatch))
    refused = pytest.raises(ValueError, match='compiler for cpu has no ragged .* exchange="dense"')
    with sharding_scope(build_mesh(MeshShape(expert=8)), fsdp_tensor_rules()), refused:
        called(layer, params, draws(1, 8, 4, 8))


@pytest.mark.parametrize(
    ("factor", "expected"), [(None, 30), (1.0, 10), (1.25, 13), (9.0, 30), (0.001, 1)]
)
def test_rows_of_a_pair_are_a_multiple_of_the_even_share_up_to_the_worst_case(
    factor: Any, expected: int
):
    sizes = {"num_peers": 4, "num_local_experts": 3, "buffer_factor": factor}
    assert rows_per_pair(10, 4, **sizes) == expected


def compiled_for_tpu(dispatch: Any, *, stages: int = 0) -> str:
    """Returns the program of loss and gradients on four chips."""
    cfg = small_config(
        input_dim=128, hidden_dim=256, num_experts=8, experts_per_token=2, dispatch=dispatch
    )
    layer, rules = cfg.instantiate(name="root"), fsdp_tensor_rules()
    axes = {"pipeline": 2, "expert": 2} if stages else {"expert": 2, "model": 2}
    mesh = build_mesh(MeshShape(**axes), devices=aot_devices(hardware_named("tpu-v5e-4")))
    fn = jax.value_and_grad(functools.partial(objective, layer), has_aux=True)
    lead = (stages,) if stages else ()

    def placed(spec: Any, sharding: Any) -> Any:
        if stages:
            split = jax.sharding.PartitionSpec("pipeline", *sharding.spec)
            sharding = jax.sharding.NamedSharding(mesh, split)
        return jax.ShapeDtypeStruct((*lead, *spec.shape), "bfloat16", sharding=sharding)

    with sharding_scope(mesh, rules):
        specs = layer.all_parameter_specs()
        is_spec = lambda s: hasattr(s, "logical_axes")
        params = jax.tree.map(placed, specs, shardings_for(specs, mesh, rules), is_leaf=is_spec)
        names = ("pipeline", "expert") if stages else ("expert",)
        tokens = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*names))
        x = jax.ShapeDtypeStruct((*lead, 4, 128, 128), "bfloat16", sharding=tokens)
        mapped = jax.vmap(fn, spmd_axis_name="pipeline") if stages else fn
        return jax.jit(mapped).lower(params, x).compile().as_text()


def instructions(program: str) -> set[str]:
    return set(re.findall(r"ragged-all-to-all|all-to-all|tpu_custom_call", program))


@needs_libtpu
@pytest.mark.parametrize("stages", [0, 2, 4])
def test_on_tpu_rows_are_exchanged_ragged_and_multiplied_by_a_kernel(stages: int):
    program = compiled_for_tpu(DroplessDispatch.default_config(), stages=stages)
    assert {"ragged-all-to-all", "tpu_custom_call"} <= instructions(program)


@needs_libtpu
def test_on_tpu_the_dense_exchange_and_capacity_compile():
    dense = compiled_for_tpu(DroplessDispatch.default_config().set(exchange="dense"))
    assert "ragged-all-to-all" not in instructions(dense) and "all-to-all" in instructions(dense)
    assert "ragged" not in compiled_for_tpu(CapacityDispatch.default_config())
