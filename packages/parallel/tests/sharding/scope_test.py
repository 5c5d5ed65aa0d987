"""`constrain` acts within a scope, in every transformation, and nowhere else."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trellax.parallel import (
    MeshShape,
    build_mesh,
    constrain,
    current_scope,
    fsdp_tensor_rules,
    sharding_scope,
)

RULES = fsdp_tensor_rules()
AXES = ("batch", "length", "act_mlp")
X = np.arange(8 * 4 * 6, dtype=np.float32).reshape(8, 4, 6)


@pytest.fixture(scope="module")
def mesh():
    return build_mesh(MeshShape(fsdp=4, model=2))


def parts(x):
    return x.addressable_shards[0].data.shape


def test_without_a_scope_the_argument_itself_is_returned():
    x = jnp.asarray(X)
    assert constrain(x, AXES) is x


def test_on_one_device_the_argument_itself_is_returned():
    x = jnp.asarray(X)
    with sharding_scope(build_mesh(MeshShape(), devices=jax.devices()[:1]), RULES):
        assert constrain(x, AXES) is x


def test_in_a_scope_the_result_is_split(mesh):
    with sharding_scope(mesh, RULES):
        y = jax.jit(lambda x: constrain(x * 2, AXES))(X)
    assert parts(y) == (2, 4, 3)
    np.testing.assert_array_equal(y, X * 2)


def test_none_switches_constraints_off_within_the_block(mesh):
    x = jnp.asarray(X)
    with sharding_scope(mesh, RULES):
        with sharding_scope(None):
            assert constrain(x, AXES) is x
        assert current_scope().mesh is mesh
    assert current_scope() is None


def test_a_scope_ends_with_an_error_too(mesh):
    with pytest.raises(RuntimeError), sharding_scope(mesh, RULES):
        raise RuntimeError
    assert current_scope() is None


def test_a_scope_is_of_its_thread(mesh):
    seen = []
    with sharding_scope(mesh, RULES):
        thread = threading.Thread(target=lambda: seen.append(current_scope()))
        thread.start()
        thread.join()
    assert seen == [None]


def scanned(x):
    return jax.lax.scan(lambda c, _: (constrain(jnp.sin(c), AXES), None), x, None, length=2)[0]


def rematerialized(x):
    return jax.checkpoint(lambda x: constrain(jnp.sin(jnp.sin(x)), AXES))(x)


def mapped(x):
    return jax.vmap(lambda x: constrain(jnp.sin(jnp.sin(x)), AXES[1:]))(x)


@pytest.mark.parametrize("fn", [scanned, rematerialized, mapped])
def test_values_and_gradients_are_unchanged_under(fn, mesh):
    loss = lambda x: jnp.sum(fn(x) ** 2)
    expected = jax.value_and_grad(loss)(jnp.asarray(X))
    with sharding_scope(mesh, RULES):
        actual = jax.jit(jax.value_and_grad(lambda x: loss(x)))(X)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fn", [scanned, rematerialized])
def test_the_constraint_reaches_the_program_under(fn, mesh):
    with sharding_scope(mesh, RULES):
        traced = jax.make_jaxpr(lambda x: fn(x))(X)
    assert "sharding_constraint" in str(traced)


def test_a_dimension_that_does_not_divide_is_left_whole(mesh):
    with sharding_scope(mesh, RULES):
        y = jax.jit(lambda x: constrain(x, AXES))(X[:6])
    assert parts(y) == (6, 4, 3)


def test_wrong_number_of_axes_is_an_error(mesh):
    with (
        sharding_scope(mesh, RULES),
        pytest.raises(ValueError, match="2 logical axes .* 3 dimensions"),
    ):
        constrain(jnp.asarray(X), ("batch", "length"))


def test_a_mesh_without_rules_is_an_error(mesh):
    with pytest.raises(ValueError, match="needs rules"), sharding_scope(mesh):
        pass
