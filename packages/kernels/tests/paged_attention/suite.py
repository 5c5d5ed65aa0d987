"""What every implementation of paged attention must satisfy: parity with float64 NumPy, and rows that keep to themselves.

Axes as in `trellax.kernels.paged_attention`. A test class subclasses `PagedAttentionSuite` and names its implementation.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from tests.tolerances import assert_close
from trellax.kernels.attention import AlibiBias
from trellax.kernels.masks import CausalMask, FullMask, Mask, SegmentMask, SlidingWindowMask
from trellax.kernels.paged_attention import explain, paged_attention

CAUSAL = CausalMask()


@dataclasses.dataclass(frozen=True)
class Case:
    """Shapes and options of one call. Row b has `lengths[b]` keys; its queries are the last of them."""

    name: str
    lengths: tuple[int, ...] = (1, 7, 30, 0, 13)
    S: int = 1
    N: int = 4
    K: int = 2
    H: int = 8
    page_size: int = 4
    P: int = 9
    mask: Mask = CAUSAL
    alibi: bool = False
    soft_cap: float | None = None
    scale: float | None = None
    dtype: str = "float32"
    page_dtype: str | None = None

    @property
    def pages_are_quantized(self) -> bool:
        return self.page_dtype in ("int8", "float8_e4m3fn")


CASES = [
    Case("decode"),
    Case("full", mask=FullMask()),
    Case("multi_head", K=4),
    Case("multi_query", K=1),
    Case("many_heads_a_kv_head", N=12, K=1),
    Case("head_dim_64", N=9, K=3, H=64),
    Case("head_dim_80", H=80),
    Case("head_dim_128", N=2, K=1, H=128),
    Case("prefill", S=6),
    Case("prefill_of_many", S=21, lengths=(21, 35, 3, 0)),
    Case("prefill_many_kv_heads", S=9, N=6, K=6, H=16),
    Case("long", lengths=(700, 259, 3), P=180, S=3),
    Case("window", mask=SlidingWindowMask(5), S=6),
    Case("window_of_long", mask=SlidingWindowMask(19), lengths=(700, 400), P=180),
    Case("segments_do_not_matter", mask=CAUSAL & SegmentMask(), S=3),
    Case("alibi", alibi=True, S=3),
    Case("soft_cap", soft_cap=2.0, S=3),
    Case("scale", scale=0.7),
    Case("page_of_16", page_size=16, P=3, S=3),
    Case("page_of_5", page_size=5, P=7, S=3),
    Case("bfloat16", dtype="bfloat16", S=6),
    Case("bfloat16_decode", dtype="bfloat16", N=9, K=3, H=64),
    Case("bfloat16_multi_head", dtype="bfloat16", N=3, K=3, H=96, S=3),
    Case("bfloat16_group_of_8", dtype="bfloat16", N=16, K=2, H=128, S=2, page_size=5, P=7),
    Case("bfloat16_window", dtype="bfloat16", N=6, K=2, H=64, S=3, mask=SlidingWindowMask(19)),
    Case("bfloat16_soft_cap", dtype="bfloat16", N=3, K=1, H=96, soft_cap=2.0, S=3),
    Case("bfloat16_alibi", dtype="bfloat16", N=8, K=1, H=64, alibi=True, S=3),
    Case("bfloat16_full", dtype="bfloat16", N=4, K=2, H=32, mask=FullMask(), S=13),
    Case("bfloat16_pages", page_dtype="bfloat16", S=3),
    Case("int8_pages", page_dtype="int8", S=3),
    Case("int8_pages_bfloat16_queries", page_dtype="int8", dtype="bfloat16", H=64),
    Case("float8_pages", page_dtype="float8_e4m3fn", S=3),
]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """One call's arrays, as NumPy, in the order of the op's arguments."""

    q: np.ndarray
    key_pages: np.ndarray
    value_pages: np.ndarray
    block_table: np.ndarray
    positions: np.ndarray
    lengths: np.ndarray
    key_scales: np.ndarray | None
    value_scales: np.ndarray | None

    def arrays(self) -> list[jax.Array]:
        fields = (self.q, self.key_pages, self.value_pages, self.block_table)
        return [jnp.asarray(x) for x in (*fields, self.positions, self.lengths)]


def make_inputs(case: Case) -> Inputs:
    """Inputs of a case, from a fixed seed. What no row has written is not a number, or a large one where there is none."""
    rng = np.random.default_rng(0)
    B, lengths = len(case.lengths), np.asarray(case.lengths, np.int32)
    q = rng.normal(size=(B, case.S, case.N, case.H)).astype(case.dtype)
    num_pages = 1 + B * case.P
    ids = 1 + rng.permutation(B * case.P).reshape(B, case.P).astype(np.int32)
    used = -(-lengths // case.page_size)
    table = np.where(np.arange(case.P) < used[:, None], ids, 0).astype(np.int32)
    positions = lengths[:, None] - case.S + np.arange(case.S)
    positions = np.where(positions < 0, -1, positions).astype(np.int32)
    pages = [_make_pages(rng, case, num_pages) for _ in range(2)]
    for values, scales in pages:
        _spoil_unwritten(values, scales, table, lengths)
    (keys, key_scales), (values, value_scales) = pages
    return Inputs(q, keys, values, table, positions, lengths, key_scales, value_scales)


def _make_pages(rng: Any, case: Case, num_pages: int) -> tuple[np.ndarray, np.ndarray | None]:
    shape = (num_pages, case.page_size, case.K, case.H)
    dtype = jnp.dtype(case.page_dtype or case.dtype)
    if not case.pages_are_quantized:
        return rng.normal(size=shape).astype(dtype), None
    scales = rng.uniform(0.005, 0.02, size=shape[:3]).astype(np.float32)
    return rng.integers(-127, 128, size=shape).astype(dtype), scales


def _spoil_unwritten(
    pages: np.ndarray, scales: np.ndarray | None, table: np.ndarray, lengths: np.ndarray
) -> None:
    written = np.zeros(pages.shape[:2], bool)
    for row, length in enumerate(lengths):
        for position in range(length):
            page, place = divmod(position, pages.shape[1])
            written[table[row, page], place] = True
    pages[~written] = 100 if pages.dtype == np.int8 else np.nan
    if scales is not None:
        scales[~written] = np.nan


def reference(case: Case, inputs: Inputs) -> np.ndarray:
    """Attention spelt out row by row and head by head, without any code of the package."""
    out = np.zeros(inputs.q.shape)
    for row, length in enumerate(inputs.lengths):
        k, v = (_contiguous(inputs, row, length, which) for which in ("key", "value"))
        for s, position in enumerate(inputs.positions[row]):
            keys = np.arange(length)
            first = position - case.mask.window + 1 if case.mask.window else 0
            allowed = (keys >= first) & ((keys <= position) | (not case.mask.is_causal))
            if position < 0 or not allowed.any():
                continue
            for head in range(case.N):
                kv = head // (case.N // case.K)
                score = k[:, kv] @ inputs.q[row, s, head].astype(np.float64)
                score = score * (case.scale or 1 / math.sqrt(case.H))
                if case.soft_cap:
                    score = case.soft_cap * np.tanh(score / case.soft_cap)
                if case.alibi:
                    slope = np.asarray(AlibiBias.for_heads(case.N).slopes)[head]
                    score = score - slope * (position - keys)
                weights = np.exp(score - score[allowed].max()) * allowed
                out[row, s, head] = weights @ v[:, kv] / weights.sum()
    return out


def _contiguous(inputs: Inputs, row: int, length: int, which: str) -> np.ndarray:
    """[T, K, H] of one row's keys or values, float64."""
    pages = getattr(inputs, f"{which}_pages")
    x = pages[inputs.block_table[row]].reshape(-1, *pages.shape[2:])[:length].astype(np.float64)
    scales = getattr(inputs, f"{which}_scales")
    if scales is None:
        return x
    return x * scales[inputs.block_table[row]].reshape(-1, pages.shape[2], 1)[:length]


def options_of(case: Case, inputs: Inputs) -> dict[str, Any]:
    options: dict[str, Any] = {"mask": case.mask, "soft_cap": case.soft_cap, "scale": case.scale}
    if case.alibi:
        options["bias"] = AlibiBias.for_heads(case.N)
    if case.pages_are_quantized:
        options["key_scales"] = jnp.asarray(inputs.key_scales)
        options["value_scales"] = jnp.asarray(inputs.value_scales)
    return options


def case_named(name: str) -> Case:
    (case,) = (case for case in CASES if case.name == name)
    return case


class PagedAttentionSuite:
    """Subclass and set `implementation`."""

    implementation: str

    def run(self, *arrays: Any, **options: Any) -> jax.Array:
        return paged_attention(*arrays, implementation=self.implementation, **options)

    def skip_if_refused(self, inputs: Inputs, options: dict[str, Any]) -> None:
        try:
            explain(*inputs.arrays(), implementation=self.implementation, **options)
        except NotImplementedError as error:
            pytest.skip(str(error).splitlines()[1])

    @pytest.mark.parametrize("name", [case.name for case in CASES])
    def test_values_match_float64(self, name: str) -> None:
        case = case_named(name)
        inputs = make_inputs(case)
        options = options_of(case, inputs)
        self.skip_if_refused(inputs, options)
        actual = jax.jit(lambda *arrays: self.run(*arrays, **options))(*inputs.arrays())
        assert actual.dtype == case.dtype
        assert_close(actual, reference(case, inputs), dtype=_coarsest(case))
        assert not np.asarray(actual)[inputs.positions < 0].any()

    @pytest.mark.parametrize("name", ["long", "prefill_of_many", "bfloat16", "int8_pages"])
    def test_a_row_does_not_depend_on_the_others(self, name: str) -> None:
        case = case_named(name)
        inputs = make_inputs(case)
        options = options_of(case, inputs)
        self.skip_if_refused(inputs, options)
        fn = jax.jit(lambda *arrays: self.run(*arrays, **options))
        together = np.asarray(fn(*inputs.arrays()).astype(jnp.float32))
        for row in range(len(case.lengths)):
            others = np.arange(len(case.lengths)) != row
            alone = dataclasses.replace(
                inputs,
                positions=np.where(others[:, None], -1, inputs.positions),
                lengths=np.where(others, 0, inputs.lengths),
            )
            out = np.asarray(fn(*alone.arrays()).astype(jnp.float32))
            np.testing.assert_array_equal(out[row], together[row])
            assert not out[others].any()

    def test_the_place_of_pages_does_not_matter(self) -> None:
        case = case_named("prefill")
        inputs = make_inputs(case)
        options = options_of(case, inputs)
        self.skip_if_refused(inputs, options)
        order = np.random.default_rng(1).permutation(len(inputs.key_pages))
        moved = dataclasses.replace(
            inputs,
            key_pages=inputs.key_pages[order],
            value_pages=inputs.value_pages[order],
            block_table=np.argsort(order)[inputs.block_table].astype(np.int32),
        )
        expected = self.run(*inputs.arrays(), **options)
        np.testing.assert_array_equal(self.run(*moved.arrays(), **options), expected)

    def test_chunks_of_queries_equal_all_at_once(self) -> None:
        case = dataclasses.replace(case_named("prefill"), S=24, lengths=(24, 24))
        inputs = make_inputs(case)
        options = options_of(case, inputs)
        self.skip_if_refused(inputs, options)
        q, *pages, positions, _ = inputs.arrays()
        whole = self.run(*inputs.arrays(), **options)
        for start, end in ((0, 5), (5, 6), (6, 24)):
            lengths = jnp.full(2, end, jnp.int32)
            part = self.run(q[:, start:end], *pages, positions[:, start:end], lengths, **options)
            assert_close(part, whole[:, start:end])

    def test_pages_may_be_written_and_donated_in_the_same_program(self) -> None:
        case = case_named("decode")
        inputs = make_inputs(case)
        options = options_of(case, inputs)
        self.skip_if_refused(inputs, options)
        q, keys, values, *rows = inputs.arrays()
        expected = reference(case, inputs)

        def step(keys: Any, values: Any) -> Any:
            keys, values = keys.at[0].set(3.0), values.at[0].set(5.0)
            return keys, values, self.run(q, keys, values, *rows, **options)

        keys, values, out = jax.jit(step, donate_argnums=(0, 1))(keys, values)
        assert_close(out, expected)
        assert (np.asarray(keys)[0] == 3.0).all() and (np.asarray(values)[0] == 5.0).all()

    def test_layers_may_be_scanned(self) -> None:
        case = case_named("prefill")
        inputs = make_inputs(case)
        options = options_of(case, inputs)
        self.skip_if_refused(inputs, options)
        q, keys, values, *rows = inputs.arrays()
        layers = (jnp.stack([keys, -keys]), jnp.stack([values, values]))

        def layer(q: Any, pages: Any) -> Any:
            return q + self.run(q, *pages, *rows, **options), None

        scanned, _ = jax.jit(lambda q: jax.lax.scan(layer, q, layers))(q)
        expected = layer(layer(q, (keys, values))[0], (-keys, values))[0]
        assert_close(scanned, expected)

    def test_calls_may_be_batched_by_vmap(self) -> None:
        case = case_named("prefill")
        inputs = make_inputs(case)
        options = options_of(case, inputs)
        self.skip_if_refused(inputs, options)
        q, *others = inputs.arrays()
        batched = jax.jit(jax.vmap(lambda q: self.run(q, *others, **options)))(jnp.stack([q, -q]))
        assert_close(batched[0], self.run(q, *others, **options))
        assert_close(batched[1], self.run(-q, *others, **options))

    def test_devices_may_split_the_heads(self) -> None:
        case = case_named("prefill")
        inputs = make_inputs(case)
        options = options_of(case, inputs)
        self.skip_if_refused(inputs, options)
        heads, none = PartitionSpec(None, None, "model"), PartitionSpec()
        with jax.set_mesh(Mesh(jax.devices()[:2], ("model",))):
            fn = jax.shard_map(
                lambda *arrays: self.run(*arrays, **options),
                in_specs=(heads, heads, heads, none, none, none),
                out_specs=heads,
            )
            out = jax.jit(fn)(*inputs.arrays())
        assert_close(out, reference(case, inputs))


def _coarsest(case: Case) -> str:
    return "bfloat16" if "bfloat16" in (case.dtype, case.page_dtype) else "float32"
