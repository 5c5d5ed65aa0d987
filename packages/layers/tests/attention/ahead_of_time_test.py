"""Attention compiled for accelerators that are not here: which kernels serve a mesh, and what a ring holds.

Axes as in `trellax.layers.attention`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from trellax.kernels.attention import explain
from trellax.kernels.masks import CausalMask
from trellax.layers.attention import (
    AllGatherContext,
    CacheView,
    RingContext,
    SoftmaxAttention,
    TokenInfo,
    UlyssesContext,
)
from trellax.layers.module import functional
from trellax.layers.transformer import TransformerLayer
from trellax.parallel import (
    MeshShape,
    build_mesh,
    fsdp_tensor_rules,
    hardware_named,
    sharding_scope,
    shardings_for,
    split_over_devices,
)
from trellax.parallel.planning import PlanningUnavailableError, aot_devices

RULES = fsdp_tensor_rules()
AXES = ("batch", "length", "act_heads", None)


def mesh_of(hardware: str, **sizes: int) -> jax.sharding.Mesh:
    """A mesh of absent devices; the first ones where it takes fewer than there are."""
    try:
        devices = aot_devices(hardware_named(hardware))
    except PlanningUnavailableError as error:
        pytest.skip(str(error))
    shape = MeshShape(**sizes)
    num_devices = 1
    for size in sizes.values():
        num_devices *= size
    return build_mesh(shape, devices=devices[:num_devices])


def placed(mesh: jax.sharding.Mesh, shape: tuple[int, ...], dtype: Any, axes: Any = AXES) -> Any:
    spec = RULES.spec(axes, shape=shape, axis_sizes=mesh.shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def attention_program(
    mesh: jax.sharding.Mesh, shape: tuple[int, ...], *, context: Any, num_kv_heads: int
) -> jax.stages.Lowered:
    """Lowers the core's forward and backward pass, bfloat16 and causal."""
    _, _, N, H = shape
    cfg = SoftmaxAttention.default_config().set(num_heads=N, num_kv_heads=num_kv_heads, head_dim=H)
    core = cfg.set(context=context.default_config()).instantiate(name="core")

    def both(q: Any, k: Any, v: Any, do: Any) -> Any:
        call = lambda q, k, v: functional(
            core,
            params={},
            args=(q, CacheView(k, v)),
            kwargs={"mask": CausalMask()},
            is_training=True,
        )[0]
        out, vjp = jax.vjp(call, q, k, v)
        return out, vjp(do)

    q, kv = (placed(mesh, (*shape[:2], heads, H), jnp.bfloat16) for heads in (N, num_kv_heads))
    with sharding_scope(mesh, RULES):
        return jax.jit(both).lower(q, kv, kv, q)


def chosen(mesh: jax.sharding.Mesh, shape: tuple[int, ...]) -> str:
    """The kernel that a device takes for its part of causal attention."""
    names = []

    def local(x: Any) -> Any:
        names.append(explain(x, x, x, mask=CausalMask()).name)
        return x

    with sharding_scope(mesh, RULES):
        split = split_over_devices({AXES: shape})
        run = lambda x: split.run(local, (x,), in_axes=[AXES], out_axes=AXES)
        jax.eval_shape(run, jax.ShapeDtypeStruct(shape, jnp.bfloat16))
    return names[0]


def test_a_transformer_layer_on_a_tpu_mesh_runs_splash_on_each_device() -> None:
    mesh = mesh_of("tpu-v5p-8", fsdp=2, model=2)
    cfg = TransformerLayer.default_config().set(input_dim=256)
    cfg.feed_forward.set(hidden_dim=256)
    cfg.attention.set(num_heads=2, num_kv_heads=1)
    layer = cfg.instantiate(name="layer")
    specs = layer.all_parameter_specs()
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=sharding),
        jax.eval_shape(layer.init, jax.random.key(0)),
        shardings_for(specs, mesh, RULES),
    )
    segments = placed(mesh, (2, 256), jnp.int32, ("batch", "length"))

    def loss(params: Any, x_BSD: Any, segments: Any) -> Any:
        args = (x_BSD, TokenInfo(segment_ids_BS=segments))
        return functional(layer, params=params, args=args, is_training=True)[0].sum()

    x = placed(mesh, (2, 256, 256), jnp.bfloat16, ("batch", "length", "act_embed"))
    with sharding_scope(mesh, RULES):
        lowered = jax.jit(jax.grad(loss)).lower(params, x, segments)
    assert "tpu_custom_call" in lowered.as_text()
    assert "tpu_custom_call" in lowered.compile().as_text()
    assert chosen(mesh, (2, 256, 2, 128)) == "splash"


@pytest.mark.parametrize("context", [AllGatherContext, UlyssesContext])
def test_splash_serves_parts_of_rows(context: Any) -> None:
    mesh = mesh_of("tpu-v5p-8", seq=2, model=2)
    lowered = attention_program(mesh, (1, 512, 8, 128), context=context, num_kv_heads=2)
    assert "tpu_custom_call" in lowered.as_text()
    lowered.compile()


def test_a_ring_compiles_for_tpus() -> None:
    mesh = mesh_of("tpu-v5p-8", seq=2, model=2)
    attention_program(mesh, (1, 1024, 8, 128), context=RingContext, num_kv_heads=2).compile()


def test_what_a_device_of_a_ring_holds_falls_as_the_ring_grows() -> None:
    peaks = {}
    for n in (2, 4):
        mesh = mesh_of("tpu-v5p-8", seq=n)
        shape = (1, 16_384, 8, 128)
        compiled = attention_program(mesh, shape, context=RingContext, num_kv_heads=8).compile()
        peaks[n] = n * compiled.memory_analysis().peak_memory_in_bytes
    assert max(peaks.values()) < 1.15 * min(peaks.values()), peaks


def test_a_gpu_mesh_runs_cudnn_on_each_device() -> None:
    mesh = mesh_of("gpu-h100-8", fsdp=4, model=2)
    assert chosen(mesh, (4, 256, 4, 64)) == "cudnn"
    lowered = attention_program(mesh, (4, 256, 4, 64), context=RingContext, num_kv_heads=2)
    assert "__cudnn$fmha" in lowered.as_text()
    lowered.compile()
