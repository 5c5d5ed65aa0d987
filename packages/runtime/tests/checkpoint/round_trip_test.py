"""What is saved comes back bit for bit, on whatever mesh, and whatever happens to it after save."""

from __future__ import annotations

import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trellax.runtime.checkpoint import Checkpointer

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint32", "int8", "uint8", "bool")


class Moments(NamedTuple):
    mean: Any
    extras: Any


def same_bits(a: Any, b: Any) -> None:
    """Asserts equal structure, kind, dtype, shape and bits; NaNs of one payload are equal."""
    structures = [str(jax.tree.structure(tree)) for tree in (a, b)]
    assert structures[0] == structures[1]
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert isinstance(x, jax.Array) == isinstance(y, jax.Array)
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def bits(seed: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    size = jnp.dtype(dtype).itemsize
    raw = rng.integers(0, 256, (*shape, size), dtype=np.uint8)
    return raw.view(jnp.dtype(dtype)).reshape(shape)


def random_array(seed: int, shape: tuple[int, ...], dtype: str, on_device: bool) -> Any:
    host = bits(seed, shape, dtype)
    return jnp.array(host) if on_device else host


arrays = st.builds(
    random_array,
    st.integers(0, 2**20),
    st.lists(st.integers(0, 5), max_size=3).map(tuple),
    st.sampled_from(DTYPES),
    st.booleans(),
)
keys = st.one_of(
    st.sampled_from(["weight", "scale"]),
    st.text(alphabet="ab./%'\" []é~", max_size=6),
)
trees = st.recursive(
    arrays,
    lambda inner: st.one_of(
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(st.integers(0, 9), inner, max_size=2),
        st.lists(inner, max_size=2),
        st.builds(Moments, inner, st.none()),
        st.tuples(inner, st.just({})),
    ),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(tree=trees)
def test_any_tree_of_arrays_comes_back(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = Checkpointer.default_config().instantiate(directory=folder)
        state = {"step": jnp.int32(7), "tree": tree}
        assert checkpointer.save(1, state, force=True)
        restored = checkpointer.restore(state)
        checkpointer.close()
    assert restored is not None and restored[0] == 1
    same_bits(restored[1], state)


def test_keys_scalars_and_empty_subtrees_come_back(open_checkpointer: Any) -> None:
    state = {
        "key": jax.random.key_data(jax.random.key(3)),
        "scale": jnp.float32(1e-45),
        "count": np.int64(2**40),
        "model_state": {},
        "slots": Moments(jnp.arange(4, dtype=jnp.bfloat16), {"empty": (), "none": None}),
        "nan": jnp.array([jnp.nan, -0.0, jnp.inf]),
        "no_rows": jnp.zeros((0, 3), jnp.bfloat16),
    }
    checkpointer = open_checkpointer()
    checkpointer.save(1, state)
    _, restored = checkpointer.restore(state)
    same_bits(restored, state | {"count": np.asarray(state["count"])})


def mesh(**axes: int) -> Mesh:
    count = int(np.prod(list(axes.values())))
    return Mesh(np.array(jax.devices()[:count]).reshape(*axes.values()), tuple(axes))


def test_another_mesh_gets_equal_bits(open_checkpointer: Any) -> None:
    host = {"w": bits(1, (16, 24), "bfloat16"), "b": bits(2, (24,), "float32")}
    fsdp, both, one = mesh(fsdp=8), mesh(fsdp=4, model=2), mesh(fsdp=1)
    plans = [
        {
            "w": NamedSharding(fsdp, PartitionSpec("fsdp", None)),
            "b": NamedSharding(fsdp, PartitionSpec("fsdp")),
        },
        {
            "w": NamedSharding(both, PartitionSpec("fsdp", "model")),
            "b": NamedSharding(both, PartitionSpec("model")),
        },
        {"w": NamedSharding(one, PartitionSpec()), "b": NamedSharding(one, PartitionSpec())},
        {
            "w": NamedSharding(both, PartitionSpec(None, ("model", "fsdp"))),
            "b": NamedSharding(both, PartitionSpec()),
        },
    ]
    state = jax.device_put(host, plans[0])
    for step, plan in enumerate(plans, start=1):
        checkpointer = open_checkpointer()
        checkpointer.save(step, state)
        target = {
            k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=plan[k]) for k, v in host.items()
        }
        _, state = checkpointer.restore(target)
        assert {k: v.sharding for k, v in state.items()} == plan
        same_bits(jax.tree.map(np.asarray, state), host)


@pytest.mark.parametrize("fate", ["donated", "deleted", "overwritten"])
def test_the_state_is_free_once_save_returns(open_checkpointer: Any, fate: str) -> None:
    host = {f"p{i}": bits(i, (512, 512), "int32") for i in range(8)}
    state = jax.tree.map(lambda x: x.copy() if fate == "overwritten" else jnp.array(x), host)
    next_step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    jax.block_until_ready(next_step(jax.tree.map(jnp.array, host)))
    checkpointer = open_checkpointer()
    checkpointer.save(1, state)
    if fate == "donated":
        jax.block_until_ready(next_step(next_step(state)))
        assert all(x.is_deleted() for x in jax.tree.leaves(state)), "save still holds the state"
    elif fate == "deleted":
        jax.tree.map(lambda x: x.delete(), state)
    else:
        jax.tree.map(lambda x: x.fill(-1), state)
    _, restored = checkpointer.restore(host)
    same_bits(restored, host)
