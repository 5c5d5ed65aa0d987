"""Code that runs on each device's blocks: same results as on whole arrays, with collectives of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trellax.parallel import (
    MeshShape,
    build_mesh,
    current_scope,
    fsdp_tensor_rules,
    sharding_scope,
    split_over_devices,
)

AXES = ("batch", "length", "act_mlp")
X = np.arange(8 * 4 * 6, dtype=np.float32).reshape(8, 4, 6)


def test_without_a_scope_the_function_is_called_as_it_is():
    split = split_over_devices({AXES: X.shape})
    assert (split.axes_of("batch"), split.parts("batch")) == ((), 1)
    assert split.run(lambda x: x.shape, (X,), in_axes=[AXES], out_axes=AXES) == X.shape


def test_each_device_gets_its_block_and_results_are_put_together():
    seen = []

    def double(x):
        seen.append(x.shape)
        assert current_scope() is None
        return 2 * x

    with sharding_scope(build_mesh(MeshShape(fsdp=2, seq=2, model=2)), fsdp_tensor_rules()):
        split = split_over_devices({AXES: X.shape})
        y = jax.jit(lambda x: split.run(double, (x,), in_axes=[AXES], out_axes=AXES))(X)
    assert seen == [(4, 2, 3)]
    assert (split.axes_of("batch"), split.parts("length")) == (("fsdp",), 2)
    np.testing.assert_array_equal(y, 2 * X)


def test_trees_of_arrays_have_trees_of_axes():
    with sharding_scope(build_mesh(MeshShape(data=4, model=2)), fsdp_tensor_rules()):
        split = split_over_devices({AXES: X.shape})
        fn = lambda tree: {"sum": tree["a"] + tree["b"], "none": None}
        axes = {"a": AXES, "b": (None, None, "act_mlp")}
        b = np.ones((1, 1, 6), np.float32)
        y = split.run(fn, ({"a": X, "b": b},), in_axes=[axes], out_axes={"sum": AXES, "none": None})
    np.testing.assert_array_equal(y["sum"], X + 1)


def test_an_axis_that_divides_not_all_arrays_splits_none():
    with sharding_scope(build_mesh(MeshShape(fsdp=2, model=4)), fsdp_tensor_rules()):
        split = split_over_devices({("batch", "act_mlp"): (4, 8), ("act_mlp",): (6,)})
    assert (split.axes_of("batch"), split.axes_of("act_mlp")) == (("fsdp",), ())


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"data": 2, "model": 4}, {"seq": 4, "model": 2}])
def test_gradients_equal_those_of_one_device(sizes):
    w = np.linspace(-1, 1, 8, dtype=np.float32)
    x = np.sin(np.arange(8 * 4 * 8, dtype=np.float32)).reshape(8, 4, 8)

    def loss(w, x):
        split = split_over_devices({AXES: x.shape, ("act_mlp",): w.shape})

        def local(x, w):
            y = jnp.tanh(x * w).sum(axis=2)
            return jax.lax.psum(y, split.axes_of("act_mlp")) if split.parts("act_mlp") > 1 else y

        y = split.run(local, (x, w), in_axes=[AXES, ("act_mlp",)], out_axes=("batch", "length"))
        return jnp.square(y).sum()

    expected = jax.grad(loss, argnums=(0, 1))(w, x)
    with sharding_scope(build_mesh(MeshShape(**sizes)), fsdp_tensor_rules()):
        found = jax.jit(jax.grad(loss, argnums=(0, 1)))(w, x)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
