"""Every implementation of attention against the suite."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.attention.suite import CASES, AttentionSuite, make_inputs
from tests.tolerances import assert_close
from trellax.kernels.attention import attention, blocks
from trellax.kernels.attention.call import make_call
from trellax.kernels.masks import CausalMask


class TestXla(AttentionSuite):
    implementation = "xla"


class TestJaxNn(AttentionSuite):
    implementation = "jax_nn"


class TestXlaChunked(AttentionSuite):
    implementation = "xla_chunked"

    @pytest.fixture(autouse=True)
    def small_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tiles small enough that the suite's lengths take several, and a ragged last one."""
        monkeypatch.setattr(
            "trellax.kernels.attention.xla_chunked.block_sizes",
            lambda *_: {"query": 8, "key": 5},
        )


@pytest.mark.parametrize("sizes", [(1, 1), (3, 7), (16, 4), (64, 64)])
def test_tile_sizes_do_not_change_the_result(
    sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (case,) = (case for case in CASES if case.name == "packed_window")
    arrays, options = make_inputs(case)
    expected = attention(*arrays, implementation="xla", **options)
    monkeypatch.setattr(
        "trellax.kernels.attention.xla_chunked.block_sizes",
        lambda *_: dict(zip(("query", "key"), sizes, strict=True)),
    )
    assert_close(attention(*arrays, implementation="xla_chunked", **options), expected)


def test_tiled_attention_holds_no_full_scores() -> None:
    length, dim = 2048, 8
    x = jax.ShapeDtypeStruct((1, length, 1, dim), jnp.float32)

    def loss(q: Any, k: Any, v: Any) -> jax.Array:
        return attention(q, k, v, mask=CausalMask(), implementation="xla_chunked").sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None and analysis.temp_size_in_bytes < length * length


@pytest.mark.parametrize("length", [1, 128, 4096, 1 << 20])
def test_every_length_has_tile_sizes(length: int) -> None:
    x = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
    call = make_call(x, x, x)  # type: ignore[arg-type]
    for implementation in ("xla_chunked", "splash"):
        assert set(blocks.block_sizes(implementation, call)) == {"query", "key"}
