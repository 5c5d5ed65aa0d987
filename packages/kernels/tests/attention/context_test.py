"""Attention of rows that are split over devices equals attention of whole rows: outputs and gradients, every method.

Axes as in `trellax.kernels.attention`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from tests.attention.suite import Case, make_inputs, reference
from tests.tolerances import assert_close
from trellax.kernels import dispatch
from trellax.kernels.attention import (
    AlibiBias,
    all_gather,
    all_gather_attention,
    attention,
    blockwise,
    ring_attention,
    splash,
    ulysses_attention,
    zigzag,
)
from trellax.kernels.dispatch import UnsupportedError
from trellax.kernels.masks import CausalMask, FullMask, Mask, SegmentMask, SlidingWindowMask

METHODS = {
    "ring": ring_attention,
    "all_gather": all_gather_attention,
    "ulysses": ulysses_attention,
}
SHAPE: dict[str, Any] = {"B": 2, "S": 32, "T": 32, "N": 8, "K": 8}
PACKED: dict[str, Any] = {"segments": True}
CASES = [
    Case("full", **SHAPE),
    Case("causal", **SHAPE, mask=CausalMask()),
    Case("window", **SHAPE, mask=SlidingWindowMask(7)),
    Case("packed", **SHAPE, mask=CausalMask() & SegmentMask(), segments=True),
    Case("packed_window", **SHAPE, mask=SlidingWindowMask(9) & SegmentMask(), segments=True),
    Case("packed_both_ways", **SHAPE, mask=SegmentMask(), segments=True),
    Case("alibi", **SHAPE, mask=CausalMask(), alibi=True),
    Case("capped", **SHAPE, mask=CausalMask(), soft_cap=2.0, scale=0.7),
    Case("bfloat16", **SHAPE, mask=CausalMask(), dtype="bfloat16"),
]


class PrefixMask(Mask):
    """A mask that no kernel knows: the first tokens are seen by all."""

    def allows(self, q_pos: Any, k_pos: Any, q_seg: Any, k_seg: Any) -> Any:
        return (q_pos >= k_pos) | (k_pos < 3)


def over_devices(method: str, n: int, options: dict[str, Any], qkv: Any) -> jax.Array:
    """The method on `n` devices, of whole arrays."""
    mesh = Mesh(np.array(jax.devices()[:n]), ("seq",))
    options = dict(options)
    segments = options.pop("query_segments", None)
    options.pop("key_segments", None)
    spec = PartitionSpec(None, "seq")

    def local(q: Any, k: Any, v: Any, segments: Any) -> jax.Array:
        return METHODS[method](q, k, v, axis="seq", segments=segments, **options)

    specs = (spec, spec, spec, spec)
    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False)
    return mapped(*qkv, segments)


def loss(fn: Any, qkv: Any, H: int) -> jax.Array:
    return (fn(qkv).astype(jnp.float32) * jnp.cos(jnp.arange(H))).sum()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("method", METHODS)
def test_four_devices_match_float64(method: str, case: Case) -> None:
    check(method, 4, case)


@pytest.mark.parametrize("n", [2, 8])
@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_devices_matches_float64(method: str, n: int) -> None:
    check(method, n, CASES[3])


@pytest.mark.parametrize("method", ["ring", "all_gather"])
def test_grouped_queries_over_an_odd_ring(method: str) -> None:
    check(method, 3, Case("", S=24, T=24, N=4, K=2, mask=CausalMask()))


def check(method: str, n: int, case: Case) -> None:
    arrays, options = make_inputs(case)
    qkv = [jnp.asarray(x) for x in arrays]
    fn = functools.partial(over_devices, method, n, options)
    value, gradients = jax.jit(lambda x: (fn(x), jax.grad(lambda y: loss(fn, y, case.H))(x)))(qkv)
    assert value.dtype == case.dtype
    assert_close(value, reference(case, arrays, options), dtype=case.dtype)
    wide = [x.astype(jnp.float32) for x in qkv]
    whole = lambda x: reference(case, x, options, jnp)
    expected = jax.grad(lambda x: loss(whole, x, case.H))(wide)
    for a, e in zip(gradients, expected, strict=True):
        assert_close(a, e, dtype=case.dtype, gradient=True)


@pytest.mark.parametrize("method", METHODS)
def test_masks_that_no_kernel_knows_go_by_places_in_the_row(method: str) -> None:
    arrays, options = make_inputs(Case("", **SHAPE, mask=PrefixMask()))
    expected = attention(*arrays, implementation="xla", **options)
    assert_close(jax.jit(lambda x: over_devices(method, 4, options, x))(arrays), expected)


def test_tiles_smaller_than_a_chunk_do_not_change_the_result(monkeypatch: Any) -> None:
    monkeypatch.setattr(
        "trellax.kernels.attention.blocks.block_sizes", lambda *_: {"query": 2, "key": 3}
    )
    for mask in (CausalMask(), SlidingWindowMask(5), FullMask()):
        arrays, options = make_inputs(Case("", S=48, T=48, mask=mask))
        expected = attention(*arrays, implementation="xla", **options)
        for method in ("ring", "all_gather"):
            assert_close(
                jax.jit(lambda x, m=method, o=options: over_devices(m, 4, o, x))(arrays), expected
            )


@pytest.mark.parametrize("n", range(1, 9))
def test_the_balanced_layout_gives_each_device_an_early_and_a_late_chunk(n: int) -> None:
    mesh = Mesh(np.array(jax.devices()[:n]), ("seq",))
    mapped = functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=PartitionSpec("seq"),
        out_specs=PartitionSpec("seq"),
        check_vma=False,
    )
    there = mapped(lambda x: zigzag.to_zigzag(x, axis="seq", dim=0))
    back = mapped(lambda x: zigzag.from_zigzag(x, axis="seq", dim=0))
    row = np.arange(6 * n, dtype=np.int32)
    exchanged = jax.jit(there)(row)
    np.testing.assert_array_equal(exchanged.reshape(n, 6), zigzag.chunk_positions(n, 6))
    np.testing.assert_array_equal(jax.jit(back)(exchanged), row)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_the_balanced_layout_gives_each_device_as_many_tiles(n: int) -> None:
    form = blockwise.Form(CausalMask(), 1.0, None, 4, 4, 16 * n)
    tiles = [
        blockwise.visible_tiles(form, positions, np.arange(16 * n)).shape[1]
        for positions in zigzag.chunk_positions(n, 16)
    ]
    assert len(set(tiles)) == 1


def test_remat_that_saves_the_named_results_runs_no_second_forward_ring() -> None:
    arrays, options = make_inputs(Case("", **SHAPE, mask=CausalMask()))

    def ring_scans(policy: Any) -> int:
        fn = jax.checkpoint(
            lambda q, k, v: over_devices("ring", 4, options, (q, k, v)), policy=policy
        )
        gradient = jax.grad(lambda x: loss(lambda y: fn(*y), x, 8))
        text = str(jax.jit(gradient).trace([jnp.asarray(x) for x in arrays]).jaxpr)
        return text.count("scan[")

    saved = jax.checkpoint_policies.save_only_these_names(
        blockwise.OUTPUT_NAME, blockwise.STATISTICS_NAME
    )
    nothing = jax.checkpoint_policies.nothing_saveable
    scans_a_pass = 3  # Own tiles; visitors; tiles of a visitor.
    assert ring_scans(nothing) - ring_scans(saved) == scans_a_pass


def test_no_method_branches_on_data() -> None:
    arrays, options = make_inputs(CASES[3])
    for method in METHODS:
        fn = functools.partial(over_devices, method, 4, options)
        gradient = jax.grad(lambda x, fn=fn: loss(fn, x, 8))
        text = jax.jit(gradient).lower([jnp.asarray(x) for x in arrays]).as_text()
        assert "stablehlo.case" not in text and "stablehlo.if" not in text


@pytest.mark.parametrize(
    ("method", "change", "error", "message"),
    [
        ("ring", {"S": 20, "T": 20}, ValueError, "multiple of 8 tokens, two chunks each, not 20"),
        ("all_gather", {"S": 12, "T": 12}, ValueError, "pad rows to 16"),
        ("ring", {"dense_bias": True}, ValueError, "use a ScoreBias"),
        ("ulysses", {"dense_bias": True}, ValueError, "use a ScoreBias"),
        ("ulysses", {"N": 6, "K": 6}, ValueError, "6 heads and 6 kv heads do not both divide by 4"),
    ],
)
def test_what_cannot_be_split_is_refused(
    method: str, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arrays, options = make_inputs(Case("", **({**SHAPE, "mask": CausalMask()} | change)))
    with pytest.raises(error, match=message):
        over_devices(method, 4, options, [jnp.asarray(x) for x in arrays])


@pytest.mark.parametrize(
    ("method", "name", "reason"),
    [
        ("all_gather", "splash", "needs a TPU"),
        ("all_gather", "xla", "needs queries in one piece"),
        ("ring", "splash", "computes its tiles itself"),
    ],
)
def test_demanding_a_kernel_that_the_method_cannot_use_is_refused(
    method: str, name: str, reason: str
) -> None:
    arrays, options = make_inputs(CASES[1])
    with pytest.raises(UnsupportedError, match=reason):
        over_devices(method, 4, options | {"implementation": name}, arrays)


@pytest.mark.parametrize("mask", [CausalMask(), SlidingWindowMask(100)], ids=str)
def test_the_emulated_tpu_kernel_serves_balanced_queries(mask: Mask, monkeypatch: Any) -> None:
    case = Case("", B=1, S=512, T=512, N=2, K=1, H=128, mask=mask & SegmentMask(), segments=True)
    arrays, options = make_inputs(case)
    monkeypatch.setattr(splash, "run_part", functools.partial(splash.run_part, interpret=True))
    monkeypatch.setattr(
        all_gather, "SPLASH", dispatch.Implementation("splash", splash.run, splash.unsupported)
    )
    options["implementation"] = "splash"
    qkv = [jnp.asarray(x) for x in arrays]
    fn = functools.partial(over_devices, "all_gather", 2, options)
    value, gradients = jax.jit(lambda x: (fn(x), jax.grad(lambda y: loss(fn, y, case.H))(x)))(qkv)
    assert_close(value, reference(case, arrays, options), gradient=True)
    expected = jax.grad(lambda x: loss(lambda y: reference(case, y, options, jnp), x, case.H))(qkv)
    for a, e in zip(gradients, expected, strict=True):
        assert_close(a, e, gradient=True)


def test_alibi_of_some_heads_is_a_part_of_alibi() -> None:
    places = jnp.arange(5)[None]
    whole = AlibiBias.for_heads(6).dense(places, places)
    part = AlibiBias.for_heads(6).of_heads(2, 3).dense(places, places)
    np.testing.assert_array_equal(part, whole[:, 2:5])
