"""FLOPs agree with XLA's own count of the unrolled program; loops, kernels and devices multiply what is in them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from trellax.parallel.planning import flops_of

AGREES = 0.02
"""XLA counts after its optimizations, which merge and split elementwise operations."""

LAYERS, D, N, H, F, V, B, S = 2, 64, 4, 16, 192, 256, 4, 64


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def norm(x_BSD):
    return x_BSD * jax.lax.rsqrt(jnp.mean(x_BSD * x_BSD, -1, keepdims=True) + 1e-6)


def transformer_layer(x_BSD, w):
    y_BSD = norm(x_BSD)
    q, k, v = (jnp.einsum("bsd,dnh->bsnh", y_BSD, w[name]) for name in "qkv")
    scores = jnp.einsum("bsnh,btnh->bnst", q, k)
    scores = jnp.where(jnp.tril(jnp.ones((S, S), bool)), scores, -1e9)
    out = jnp.einsum("bnst,btnh->bsnh", jax.nn.softmax(scores), v)
    x_BSD = x_BSD + jnp.einsum("bsnh,nhd->bsd", out, w["o"])
    y_BSD = norm(x_BSD)
    return x_BSD + (jax.nn.silu(y_BSD @ w["gate"]) * (y_BSD @ w["up"])) @ w["down"], None


def loss(params, ids, targets, *, scan, remat):
    layer = jax.checkpoint(transformer_layer) if remat else transformer_layer
    x_BSD = params["embed"][ids]
    if scan:
        x_BSD, _ = jax.lax.scan(layer, x_BSD, params["layers"])
    else:
        for i in range(LAYERS):
            x_BSD, _ = layer(x_BSD, jax.tree.map(lambda w, i=i: w[i], params["layers"]))
    logits = x_BSD @ params["embed"].T
    picked = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - picked)


def arguments():
    layers = {name: array(LAYERS, D, N, H) for name in "qkv"}
    layers |= {
        "o": array(LAYERS, N, H, D),
        "gate": array(LAYERS, D, F),
        "up": array(LAYERS, D, F),
        "down": array(LAYERS, F, D),
    }
    ids = array(B, S, dtype=jnp.int32)
    return {"embed": array(V, D), "layers": layers}, ids, ids


@pytest.mark.parametrize("remat", [False, True], ids=["saved", "remat"])
@pytest.mark.parametrize("grad", [False, True], ids=["forward", "gradient"])
def test_a_transformer_has_the_flops_that_xla_counts_unrolled(grad, remat):
    def fn(scan):
        f = functools.partial(loss, scan=scan, remat=remat)
        return jax.jit(jax.grad(f) if grad else f)

    analysis = fn(False).lower(*arguments()).compile().cost_analysis()
    for scan in (False, True):
        count = flops_of(fn(scan).trace(*arguments()).jaxpr)
        assert count.total == pytest.approx(analysis["flops"], rel=AGREES)
        assert count.transcendental == pytest.approx(analysis["transcendentals"], rel=AGREES)
        assert count.matmul > 0.9 * count.total
        assert count.by_dtype == {"float32": count.matmul}


def matmul_of(fn, *args):
    return flops_of(jax.make_jaxpr(fn)(*args)).matmul


def test_a_matmul_has_two_flops_for_each_multiply_add_and_moves_its_operands_and_result():
    count = flops_of(
        jax.make_jaxpr(jnp.dot)(array(8, 4, dtype=jnp.bfloat16), array(4, 2, dtype=jnp.bfloat16))
    )
    assert count.matmul == 2 * 8 * 4 * 2
    assert count.matmul_bytes == 2 * (8 * 4 + 4 * 2 + 8 * 2)
    assert count.by_dtype == {"bfloat16": 128}


def test_grouped_matmuls_and_their_gradients_have_the_flops_of_their_rows():
    fn = lambda x, w, sizes: jax.lax.ragged_dot(x, w, sizes).sum()
    args = array(64, 16), array(4, 16, 32), array(4, dtype=jnp.int32)
    once = 2 * 64 * 16 * 32
    assert matmul_of(fn, *args) == once
    assert matmul_of(jax.grad(fn, argnums=(0, 1)), *args) == 2 * once


def test_convolutions_are_matmuls_of_patches():
    fn = lambda x, w: jax.lax.conv_general_dilated(x, w, (1,), "SAME")
    assert matmul_of(fn, array(2, 4, 16), array(8, 4, 3)) == 2 * (2 * 8 * 16) * (4 * 3)


def test_loops_with_static_bounds_multiply_and_others_count_once_and_are_told():
    static = lambda x: jax.lax.while_loop(
        lambda c: c[0] < 5, lambda c: (c[0] + 1, c[1] @ c[1]), (0, x)
    )[1]
    assert matmul_of(static, array(8, 8)) == 5 * 2 * 8**3
    assert (
        matmul_of(lambda x: jax.lax.fori_loop(2, 5, lambda _, c: c @ c, x), array(8, 8))
        == 3 * 2 * 8**3
    )
    dynamic = flops_of(
        jax.make_jaxpr(lambda x: jax.lax.while_loop(lambda c: c.sum() < 5, lambda c: c @ c, x))(
            array(8, 8)
        )
    )
    assert (dynamic.matmul, dynamic.unbounded_loops) == (2 * 8**3, 1)


def test_the_most_expensive_branch_of_a_conditional_counts():
    fn = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)
    assert matmul_of(fn, array(8, 8)) == 2 * 2 * 8**3


def test_custom_derivatives_count_what_they_compute():
    @jax.custom_vjp
    def fn(x):
        return x @ x

    fn.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x @ x @ x,))
    assert matmul_of(fn, array(8, 8)) == 2 * 8**3
    # The forward pass' product is not used by the gradient, so nobody computes it.
    assert matmul_of(jax.grad(lambda x: fn(x).sum()), array(8, 8)) == 3 * 2 * 8**3


@pytest.mark.parametrize(
    ("spec", "copies"), [(PartitionSpec("a", "b"), 1), (PartitionSpec("a"), 2)]
)
def test_code_under_shard_map_counts_for_each_device(spec, copies):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    inner = PartitionSpec("b") if copies == 1 else PartitionSpec()
    local = lambda x, w: jax.lax.psum(x @ w, "b") if copies == 1 else x @ w
    fn = lambda x, w: jax.shard_map(
        local, mesh=mesh, in_specs=(spec, inner), out_specs=PartitionSpec("a")
    )(x, w)
    assert matmul_of(fn, array(16, 8), array(8, 4)) == copies * 2 * 16 * 8 * 4


def test_results_that_nobody_uses_do_not_count():
    unused = jax.jit(lambda x: (x @ x, x + 1))
    assert matmul_of(lambda x: unused(x)[1], array(8, 8)) == 0
    stacked = lambda x: jax.lax.scan(lambda c, _: (c + 1, c @ c), x, None, length=3)[0]
    assert matmul_of(stacked, array(8, 8)) == 0


def test_kernels_count_their_body_for_each_step_of_the_grid_under_their_name():
    splash = pytest.importorskip("jax.experimental.pallas.ops.tpu.splash_attention")
    length, heads, dim = 256, 2, 128
    mask = splash.MultiHeadMask([splash.CausalMask((length, length))] * heads)
    attention = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1)
    q = array(heads, length, dim)
    count = flops_of(jax.make_jaxpr(attention)(q, q, q))
    assert count.kernel == 4 * heads * length * length * dim
    assert count.matmul == 0 and list(count.by_kernel.values()) == [count.kernel]


def test_counts_add_and_multiply():
    one = flops_of(jax.make_jaxpr(lambda x: jnp.exp(x @ x))(array(4, 4)))
    two = one + one
    assert two == one * 2
    np.testing.assert_allclose(two.total, 2 * one.total)
