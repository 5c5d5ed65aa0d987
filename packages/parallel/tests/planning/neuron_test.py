"""Everything that Neuron documents as unsupported is found, with the module and the line that ask for it."""

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, PartitionSpec

from trellax.parallel import MeshShape, hardware_named, named_sharding, tensor_sequence_rules
from trellax.parallel.planning import abstract_mesh, neuron_lint


def rules_of(fn, *args):
    return [finding.rule for finding in neuron_lint(jax.make_jaxpr(fn)(*args))]


def per_device(fn):
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("a")
    return lambda x: jax.shard_map(fn, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(x)


X = jnp.ones(8)


@pytest.mark.parametrize(
    ("rule", "fn"),
    [
        ("cond", lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)),
        ("cond", lambda x: jax.lax.switch(x[0].astype(int), [jnp.sin, jnp.cos], x)),
        ("while", lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x)),
        ("callback", lambda x: jax.debug.print("{}", x.sum())),
        (
            "callback",
            lambda x: jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((8,), x.dtype), x),
        ),
        (
            "threefry",
            lambda x: x + jax.random.normal(jax.random.key(0, impl="threefry2x32"), x.shape),
        ),
        ("sort", lambda x: jax.lax.sort((x, x), num_keys=2)),
        ("reduce_precision", lambda x: jax.lax.reduce_precision(x, 5, 2)),
        ("dtype", lambda x: jnp.fft.fft(x)),
        ("dtype", lambda x: x.astype(jnp.int4)),
        (
            "ragged_all_to_all",
            per_device(
                lambda x: jax.lax.ragged_all_to_all(
                    x, x, *[jnp.ones(8, jnp.int32)] * 4, axis_name="a"
                )
            ),
        ),
    ],
)
def test_what_is_not_supported_is_found(rule, fn):
    assert set(rules_of(fn, X.repeat(8))) == {rule}


def test_randint_is_found_whatever_the_generator():
    key = jax.random.key(0, impl="rbg")
    assert rules_of(lambda x: x + jax.random.randint(key, (8,), 0, 5), X) == ["randint"]


def test_a_training_step_in_plain_jax_passes():
    key = jax.random.key(0, impl="rbg")

    def loss(w, x):
        layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
        x = jax.lax.fori_loop(0, 3, lambda _, x: x + 1, x)
        x = x + jax.random.normal(key, x.shape)
        return jnp.sum(jax.lax.scan(layer, x, w)[0].astype(jnp.bfloat16))

    assert rules_of(jax.grad(loss), jnp.ones((2, 8, 8)), jnp.ones((4, 8))) == []


def test_rounding_to_the_type_that_a_value_has_passes_as_remat_writes_it():
    policy = jax.checkpoint_policies.save_only_these_names("h")
    layer = jax.checkpoint(lambda x: jnp.sin(checkpoint_name(jnp.sin(x), "h")), policy=policy)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x: layer(x).sum()))(X)
    assert "reduce_precision" in str(jaxpr) and neuron_lint(jaxpr) == []


def test_findings_name_the_module_and_the_line():
    def layer(x):
        with jax.named_scope("attention"):
            return jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), None

    def loss(x):
        with jax.named_scope("decoder"):
            return jax.lax.scan(lambda x, _: layer(x), x, None, length=2)[0].sum()

    places = {f.where for f in neuron_lint(jax.make_jaxpr(jax.grad(loss))(X))}
    assert all(place.startswith("decoder.attention (neuron_test.py:") for place in places)
    (forward,) = neuron_lint(jax.make_jaxpr(loss)(X))
    assert "cond: branches that depend on data" in str(forward)


def test_calls_of_other_platforms_libraries_are_found_in_the_lowered_program():
    lowered = 'stablehlo.custom_call @Sharding(%0)\n stablehlo.custom_call @__cudnn$fmhaSoftmax(%1)\n "@AwsNeuronFlash"'
    (finding,) = neuron_lint(jax.make_jaxpr(jnp.sin)(X), stablehlo=lowered)
    assert (finding.rule, "__cudnn$fmhaSoftmax" in finding.reason) == ("custom_call", True)


def test_a_program_for_a_cluster_is_lowered_without_devices_and_linted():
    hardware, rules = hardware_named("trn2-64"), tensor_sequence_rules()
    mesh = abstract_mesh(MeshShape(fsdp=-1, model=4), hardware)
    assert mesh.size == 256 and mesh.abstract_device.platform == "neuron"
    on = lambda axes, *shape: jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=named_sharding(mesh, rules, axes, shape)
    )
    traced = jax.jit(lambda w, x: jnp.tanh(x @ w).sum()).trace(
        on(("embed", "mlp"), 128, 64), on(("batch", None), 64, 128)
    )
    text = traced.lower(lowering_platforms=("neuron",)).as_text()
    assert "mhlo.num_partitions = 256" in text and "custom_call" not in text
    assert neuron_lint(traced.jaxpr, stablehlo=text) == []
