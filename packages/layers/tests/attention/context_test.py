"""Attention on meshes equals attention on one device, whatever splits rows and heads; what cannot be split is refused.

Axes as in `trellax.layers.attention`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.reference import TOLERANCE, built, called, small_config
from trellax.config import finalize
from trellax.kernels import UnsupportedError
from trellax.kernels.masks import CausalMask
from trellax.layers.attention import (
    AlibiPositions,
    AllGatherContext,
    CacheView,
    Full,
    RingContext,
    SlidingWindow,
    SoftmaxAttention,
    TokenInfo,
    UlyssesContext,
)
from trellax.layers.module import functional
from trellax.layers.stack import ScannedStack
from trellax.layers.transformer import TransformerLayer
from trellax.parallel import (
    MeshShape,
    RunShape,
    build_mesh,
    fsdp_tensor_rules,
    mesh_refusals,
    save_names,
    sharding_scope,
    shardings_for,
)

B, S, D = 4, 32, 32
CONTEXTS = {"all_gather": AllGatherContext, "ring": RingContext, "ulysses": UlyssesContext}
PACKED = np.array([[1] * S, [1] * 20 + [2] * 12, [1] * 3 + [2] * 27 + [0] * 2, [5] * S], np.int32)


def context_config(context: str, **fields: Any) -> Any:
    core = SoftmaxAttention.default_config().set(context=CONTEXTS[context].default_config())
    return small_config(core=core, **fields)


def on_mesh(fn: Any, mesh: dict[str, int], layer: Any, params: Any, *args: Any) -> Any:
    """Runs a function of parameters under the scope of a mesh."""
    num_devices = int(np.prod(list(mesh.values())))
    devices = build_mesh(MeshShape(**mesh), devices=jax.devices()[:num_devices])
    rules = fsdp_tensor_rules()
    with sharding_scope(devices, rules):
        placed = jax.device_put(params, shardings_for(layer.all_parameter_specs(), devices, rules))
        return jax.jit(fn)(placed, *args)


def check_equal(cfg: Any, mesh: dict[str, int], tokens: TokenInfo) -> None:
    """Output and gradients of parameters and inputs, on a mesh and on one device."""
    layer, params = built(cfg)
    x_BSD = jax.random.normal(jax.random.key(1), (B, S, D))

    def trained(params: Any, x: Any) -> Any:
        loss = lambda p, x: jnp.mean(jnp.sin(called(layer, p, x, tokens)))
        return called(layer, params, x, tokens), jax.grad(loss, argnums=(0, 1))(params, x)

    expected = jax.jit(trained)(params, x_BSD)
    got = on_mesh(trained, mesh, layer, params, x_BSD)
    compare = lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE["float32"])
    jax.tree.map(compare, got, expected)


MESHES = [
    {"seq": 4},
    {"seq": 2, "model": 2},
    {"fsdp": 2, "seq": 2, "model": 2},
    {"fsdp": 4, "seq": 2},
]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("context", CONTEXTS)
def test_packed_rows_over_any_mesh_equal_one_device(context: str, mesh: dict[str, int]) -> None:
    check_equal(context_config(context), mesh, TokenInfo(segment_ids_BS=jnp.asarray(PACKED)))


@pytest.mark.parametrize(
    "mask", [Full.default_config(), SlidingWindow.default_config().set(window=5)], ids=str
)
@pytest.mark.parametrize("context", CONTEXTS)
def test_masks_go_by_places_in_the_row(context: str, mask: Any) -> None:
    check_equal(context_config(context, mask=mask), {"seq": 4, "model": 1}, TokenInfo())


@pytest.mark.parametrize("context", CONTEXTS)
def test_eight_parts_of_a_row(context: str) -> None:
    check_equal(context_config(context, num_heads=8), {"seq": 8}, TokenInfo())


@pytest.mark.parametrize("context", CONTEXTS)
def test_biases_of_heads_follow_their_heads(context: str) -> None:
    cfg = context_config(context, positions=AlibiPositions.default_config())
    check_equal(cfg, {"seq": 2, "model": 2}, TokenInfo())


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(8, 2), (8, 1), (8, 4), (16, 2)])
def test_kv_heads_are_repeated_for_devices_that_need_the_same(
    num_heads: int, num_kv_heads: int
) -> None:
    cfg = small_config(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=4)
    check_equal(cfg, {"fsdp": 2, "model": 4}, TokenInfo())


def test_heads_that_do_not_divide_stay_whole() -> None:
    check_equal(small_config(num_heads=6, num_kv_heads=3, head_dim=4), {"model": 4}, TokenInfo())


@pytest.mark.parametrize("mesh", [{"seq": 4}, {"seq": 2, "model": 2}, {"fsdp": 2, "model": 4}])
def test_decoding_on_a_mesh_equals_one_device(mesh: dict[str, int]) -> None:
    layer, params = built(context_config("ring", positions=AlibiPositions.default_config()))
    x_BSD = jax.random.normal(jax.random.key(1), (B, 9, D))
    state = layer.init_state(batch_size=B, max_length=16)

    def served(params: Any, state: Any) -> Any:
        before, state = called(layer, params, x_BSD[:, :8], TokenInfo.contiguous(B, 8), state)
        step, _ = called(layer, params, x_BSD[:, 8:], TokenInfo.contiguous(B, 1, start=8), state)
        return before, step

    expected = jax.jit(served)(params, state)
    got = on_mesh(served, mesh, layer, params, state)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, **TOLERANCE["float32"])


def core_of(bias: Any, context: str = "all_gather", **fields: Any) -> Any:
    """A function of query, key and value, [B, S, 4, 8], by the core alone."""
    cfg = SoftmaxAttention.default_config().set(num_heads=4, num_kv_heads=4, head_dim=8)
    cfg.set(context=CONTEXTS[context].default_config(), **fields)
    core = cfg.instantiate(name="core")

    def fn(q: Any, k: Any, v: Any) -> Any:
        kwargs = {"mask": CausalMask(), "bias": bias}
        args = (q, CacheView(k, v))
        return functional(core, params={}, args=args, kwargs=kwargs, is_training=True)[0]

    return fn


@pytest.mark.parametrize("context", CONTEXTS)
def test_scanned_layers_with_remat_equal_one_device(context: str) -> None:
    attention = context_config(context)
    block = TransformerLayer.default_config().set(input_dim=D, attention=attention)
    block.feed_forward.set(hidden_dim=16)
    block.set(remat=save_names("attention_context", "attention_statistics"))
    check_equal(
        ScannedStack.default_config().set(num_layers=2, layer=block, input_dim=D),
        {"seq": 2, "model": 2},
        TokenInfo(segment_ids_BS=jnp.asarray(PACKED)),
    )


def scoped(fn: Any, mesh: dict[str, int], *args: Any) -> Any:
    num_devices = int(np.prod(list(mesh.values())))
    devices = build_mesh(MeshShape(**mesh), devices=jax.devices()[:num_devices])
    with sharding_scope(devices, fsdp_tensor_rules()):
        return jax.jit(fn)(*args)


def qkv() -> Any:
    return jax.random.normal(jax.random.key(0), (3, B, S, 4, 8))


@pytest.mark.parametrize("shape", [(B, 4, S, S), (1, 4, S, S), (1, 1, S, S)], ids=str)
def test_dense_biases_are_split_as_rows_heads_and_queries_are(shape: tuple[int, ...]) -> None:
    fn = core_of(jax.random.normal(jax.random.key(1), shape))
    expected = fn(*qkv())
    got = scoped(fn, {"fsdp": 2, "seq": 2, "model": 2}, *qkv())
    np.testing.assert_allclose(got, expected, **TOLERANCE["float32"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Distance:
    """A rule that cannot say what its heads have."""

    factor: float

    def dense(self, query_positions: Any, key_positions: Any) -> Any:
        distance = query_positions[:, None, :, None] - key_positions[:, None, None, :]
        return jnp.broadcast_to(self.factor * distance, (distance.shape[0], 4, *distance.shape[2:]))


def test_a_rule_that_cannot_be_split_is_served_where_heads_are_whole_and_refused_elsewhere() -> (
    None
):
    fn = core_of(Distance(-0.1), "ring")
    np.testing.assert_allclose(scoped(fn, {"seq": 2}, *qkv()), fn(*qkv()), **TOLERANCE["float32"])
    with pytest.raises(ValueError, match=r"over model, and Distance cannot .* of_heads"):
        scoped(fn, {"seq": 2, "model": 2}, *qkv())


def test_kernels_that_a_method_cannot_use_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="a ring computes its tiles itself"):
        scoped(core_of(None, "ring", implementation="xla"), {"seq": 2}, *qkv())


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8 tokens, two chunks each, not 28"):
        scoped(core_of(None), {"seq": 4}, *qkv()[:, :, :28])


@pytest.mark.parametrize("context", CONTEXTS)
def test_stages_of_a_pipeline_may_be_mapped_over(context: str) -> None:
    fn = core_of(None, context)
    stages = jax.random.normal(jax.random.key(0), (3, 2, B, S, 4, 8))

    def loss(fn: Any, x: Any) -> Any:
        return jnp.mean(jnp.sin(fn(*x)))

    expected = jax.grad(lambda x: loss(jax.vmap(fn), x))(stages)
    mapped = jax.vmap(fn, spmd_axis_name="pipeline")
    got = scoped(jax.grad(lambda x: loss(mapped, x)), {"pipeline": 2, "seq": 2, "model": 2}, stages)
    np.testing.assert_allclose(got, expected, **TOLERANCE["float32"])


@pytest.mark.parametrize("context", CONTEXTS)
def test_remat_that_saves_what_attention_names_runs_it_once_forward(context: str) -> None:
    def loops(*names: str) -> int:
        layer, params = built(context_config(context, remat=save_names(*names)))
        loss = lambda p, x: jnp.mean(jnp.sin(called(layer, p, x, TokenInfo())))
        devices = build_mesh(MeshShape(seq=2), devices=jax.devices()[:2])
        with sharding_scope(devices, fsdp_tensor_rules()):
            traced = jax.jit(jax.grad(loss)).trace(params, jnp.ones((B, 512, D)))
        return str(traced.jaxpr).count("scan[")

    assert loops("attention_context", "attention_statistics") < loops("o_proj")


@pytest.mark.parametrize(
    ("context", "run", "reason"),
    [
        ("ring", RunShape({"seq": 4}, length=64), None),
        ("ring", RunShape({"seq": 4}, length=60), "use a multiple of 8 such as 64"),
        ("all_gather", RunShape({"seq": 2}, length=30), "use a multiple of 4 such as 32"),
        ("ring", RunShape({"seq": 4}), None),
        ("ulysses", RunShape({"seq": 2, "model": 2}, length=30), None),
        ("ulysses", RunShape({"seq": 2}, length=31), "no multiple of seq=2"),
        ("ulysses", RunShape({"seq": 4, "model": 2}), "use seq=2, a multiple of 8 heads"),
        ("ulysses", RunShape({"seq": 2, "model": 8}), "use fewer than model=8"),
        ("ulysses", RunShape({"model": 8}, length=31), None),
    ],
)
def test_meshes_are_refused_ahead_of_a_run(context: str, run: RunShape, reason: Any) -> None:
    found = mesh_refusals(finalize(context_config(context)), run, path="attention")
    assert [refusal.path for refusal in found] == ["attention.core.context"] * bool(reason)
    assert reason is None or reason in found[0].reason


@pytest.mark.parametrize("context", CONTEXTS)
def test_no_method_branches_on_data(context: str) -> None:
    devices = build_mesh(MeshShape(seq=2), devices=jax.devices()[:2])
    loss = lambda x: core_of(None, context)(*x).sum()
    with sharding_scope(devices, fsdp_tensor_rules()):
        text = jax.jit(jax.grad(loss)).lower(qkv()).as_text()
    assert "stablehlo.case" not in text and "stablehlo.if" not in text


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_programs_are_exported_for_other_platforms(context: str, platform: str) -> None:
    devices = build_mesh(MeshShape(seq=2), devices=jax.devices()[:2])
    loss = lambda x: core_of(None, context)(*x).sum()
    with sharding_scope(devices, fsdp_tensor_rules()):
        exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=[platform])(qkv())
    assert exported.platforms == (platform,) and exported.nr_devices == 2
