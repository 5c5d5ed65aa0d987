"""Every implementation of paged attention against the suite, and what the op itself promises."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh

from tests.paged_attention.suite import (
    CASES,
    Case,
    PagedAttentionSuite,
    case_named,
    make_inputs,
    options_of,
    reference,
)
from tests.tolerances import assert_close
from trellax.kernels.attention import attention
from trellax.kernels.masks import CausalMask, Mask, SlidingWindowMask
from trellax.kernels.native import compile
from trellax.kernels.paged_attention import explain, native, paged_attention


class TestXla(PagedAttentionSuite):
    implementation = "xla"


class TestXlaChunked(PagedAttentionSuite):
    implementation = "xla_chunked"

    @pytest.fixture(autouse=True)
    def small_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Chunks small enough that the suite's lengths take several."""
        monkeypatch.setattr("trellax.kernels.paged_attention.xla_chunked.KEYS_PER_CHUNK", 8)


class TestNative(PagedAttentionSuite):
    implementation = "native"

    @pytest.fixture(autouse=True)
    def one_device(self) -> Iterator[None]:
        """Outside of `shard_map`, native kernels see the arrays of one device."""
        with jax.set_mesh(Mesh(jax.devices()[:1], ("model",))):
            yield

    @pytest.mark.parametrize(
        "name",
        [
            "prefill_of_many",
            "window",
            "head_dim_64",
            "int8_pages",
            *(c.name for c in CASES if c.dtype == "bfloat16" and c.mask.is_causal),
        ],
    )
    def test_a_query_does_not_depend_on_how_a_prompt_is_cut(self, name: str) -> None:
        """Bit for bit, whether it comes alone, as in decoding, or in a chunk of any size."""
        case = dataclasses.replace(case_named(name), S=300, lengths=(300, 290), P=80)
        inputs = make_inputs(case)
        options = options_of(case, inputs)
        self.skip_if_refused(inputs, options)
        q, *pages, positions, lengths = inputs.arrays()
        whole = np.asarray(self.run(*inputs.arrays(), **options).astype(jnp.float32))
        for start, end in ((0, 1), (150, 151), (299, 300), (17, 120), (40, 300)):
            some = positions[:, start:end]
            written = jnp.minimum(some.max(axis=1) + 1, lengths)
            part = self.run(q[:, start:end], *pages, some, written, **options)
            np.testing.assert_array_equal(part.astype(jnp.float32), whole[:, start:end])

    @pytest.mark.skipif(native.LIBRARY.refusal() is not None, reason="no compiled library")
    def test_a_cpu_without_wide_vectors_computes_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compile, "_this_machine_flag", lambda: "-g0")  # the oldest of its kind
        portable = dataclasses.replace(native.LIBRARY, cache_dir=tmp_path)
        monkeypatch.setattr(native, "LIBRARY", portable)
        for name in ("head_dim_80", "window", "soft_cap", "alibi", "bfloat16_pages", "int8_pages"):
            case = case_named(name)
            inputs = make_inputs(case)
            out = self.run(*inputs.arrays(), **options_of(case, inputs))
            assert_close(out, reference(case, inputs))

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_many_long_rows_of_many_heads(self, dtype: str) -> None:
        """More than a thread takes at once: several tiles, several splits of keys."""
        lengths = (1500, 3, 0, 777)
        sizes = {"S": 40, "N": 8, "K": 2, "H": 64, "page_size": 16, "P": 100}
        case = Case("many", lengths=lengths, dtype=dtype, **sizes)
        inputs = make_inputs(case)
        options = options_of(case, inputs)
        self.skip_if_refused(inputs, options)
        out = self.run(*inputs.arrays(), **options)
        assert_close(out, reference(case, inputs), dtype=dtype)


@pytest.mark.parametrize("keys", [1, 12, 1024])
def test_chunk_sizes_do_not_change_the_result(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trellax.kernels.paged_attention.xla_chunked.KEYS_PER_CHUNK", keys)
    case = case_named("window")
    inputs = make_inputs(case)
    out = paged_attention(
        *inputs.arrays(), implementation="xla_chunked", **options_of(case, inputs)
    )
    assert_close(out, reference(case, inputs))


def test_pages_of_a_contiguous_row_equal_attention() -> None:
    B, S, N, K, H = 2, 32, 4, 2, 8
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(B, S, n, H)), jnp.float32) for n in (N, K, K))
    expected = attention(q, k, v, mask=CausalMask(), implementation="xla")
    table = jnp.arange(16, dtype=jnp.int32).reshape(2, 8)
    positions = jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32), (B, S))
    pages = (x.reshape(16, 4, K, H) for x in (k, v))
    lengths = jnp.full(B, S, jnp.int32)
    assert_close(paged_attention(q, *pages, table, positions, lengths, mask=CausalMask()), expected)


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    S=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 1, 6]),
    page_size=st.sampled_from([1, 3, 8]),
)
@settings(deadline=None, max_examples=12)
def test_any_lengths_agree_with_the_loop(
    lengths: list[int], S: int, window: int | None, page_size: int
) -> None:
    mask = SlidingWindowMask(window) if window else CausalMask()
    P = 40 // page_size + 1
    case = Case("drawn", tuple(lengths), S, page_size=page_size, P=P, mask=mask)
    inputs = make_inputs(case)
    assert_close(
        paged_attention(*inputs.arrays(), **options_of(case, inputs)), reference(case, inputs)
    )


def test_a_wide_block_table_is_not_gathered() -> None:
    B, P, page_size = 4, 512, 16
    case = Case("wide", lengths=(5,) * B, P=P, page_size=page_size)
    shapes = jax.eval_shape(lambda: [jnp.zeros((B, 1, 4, 8))] + [jnp.zeros((9, 16, 2, 8))] * 2)
    ints = [jax.ShapeDtypeStruct(s, jnp.int32) for s in ((B, P), (B, 1), (B,))]
    fn = lambda *x: paged_attention(*x, mask=case.mask, implementation="xla_chunked")
    analysis = jax.jit(fn).lower(*shapes, *ints).compile().memory_analysis()
    assert analysis is not None and analysis.temp_size_in_bytes < B * P * page_size * 2 * 8 * 4


def test_a_new_mask_is_served() -> None:
    @dataclasses.dataclass(frozen=True)
    class SinkMask(Mask):
        """The first key, and the query's own."""

        def allows(self, q_pos: Any, k_pos: Any, q_seg: Any, k_seg: Any) -> Any:
            return (k_pos == 0) | (k_pos == q_pos)

    inputs = make_inputs(case_named("decode"))
    results = [
        paged_attention(*inputs.arrays(), mask=SinkMask(), implementation=name)
        for name in (None, "xla", "xla_chunked")
    ]
    assert_close(results[0], results[1])
    assert_close(results[2], results[1])
    full = paged_attention(*inputs.arrays(), implementation="xla")
    assert np.abs(np.asarray(results[1] - full)).max() > 0.1


def test_mistakes_are_named() -> None:
    q, keys, values, table, positions, lengths = make_inputs(case_named("decode")).arrays()
    with pytest.raises(ValueError, match=r"expected query \[B, S, N, H\]"):
        paged_attention(q, keys[0], values, table, positions, lengths)
    with pytest.raises(ValueError, match="4 heads a multiple of 3 kv heads"):
        wide = jnp.zeros((2, 4, 3, 8))
        paged_attention(q, wide, wide, table, positions, lengths)
    with pytest.raises(ValueError, match=r"lengths \[5\]"):
        paged_attention(q, keys, values, table, positions, lengths[:2])
    with pytest.raises(ValueError, match="block_table must be int32"):
        paged_attention(q, keys, values, table.astype(jnp.int8), positions, lengths)
    with pytest.raises(ValueError, match="key_scales must be given for pages of"):
        as_bytes = keys.astype(jnp.int8)
        paged_attention(q, as_bytes, as_bytes, table, positions, lengths)
    with pytest.raises(ValueError, match="pages differ in dtype"):
        paged_attention(q, keys, values.astype(jnp.bfloat16), table, positions, lengths)
    with pytest.raises(ValueError, match="soft_cap must be positive"):
        paged_attention(q, keys, values, table, positions, lengths, soft_cap=0.0)
    with pytest.raises(ValueError, match="bias is an array"):
        paged_attention(q, keys, values, table, positions, lengths, bias=q)  # type: ignore[arg-type]


def test_the_choice_can_be_printed() -> None:
    inputs = make_inputs(case_named("decode"))
    choice = explain(*inputs.arrays(), mask=CausalMask())
    assert str(choice).startswith(f"paged_attention: {choice.name}\n")
    assert "xla" in choice.alternatives
