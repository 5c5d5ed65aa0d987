"""Every implementation of matmul against the suite, what `native` promises besides, and dispatch."""

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

from tests.matmul.suite import MatmulSuite, reference, rows_of, weight_of
from tests.tolerances import assert_close
from trellax.kernels.matmul import explain, matmul, native, prepare
from trellax.kernels.matmul.formats import FORMATS
from trellax.kernels.native import compile

needs_compiler = pytest.mark.skipif(
    native.LIBRARY.refusal() is not None, reason="no compiled library"
)


@pytest.fixture
def one_device() -> Iterator[None]:
    """Outside of `shard_map`, native kernels see the arrays of one device."""
    with jax.set_mesh(Mesh(jax.devices()[:1], ("model",))):
        yield


class TestXla(MatmulSuite):
    implementation = "xla"


class TestXlaPlain(MatmulSuite):
    implementation = "xla"
    layout = "plain"


@needs_compiler
@pytest.mark.usefixtures("one_device")
class TestNative(MatmulSuite):
    implementation = "native"

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_a_row_does_not_depend_on_the_others(self, format: Any, dtype: str) -> None:
        """Bit for bit, however many there are."""
        weight = prepare(weight_of((192, 150)), format=format)
        x = rows_of((67, 192), dtype)
        run = jax.jit(lambda x: self.run(x, weight, output_dtype=jnp.float32))
        together = np.asarray(run(x))
        for first, count in ((0, 1), (1, 2), (3, 5), (8, 11), (20, 12), (30, 13), (43, 24)):
            some = run(x[first : first + count])
            np.testing.assert_array_equal(some, together[first : first + count])

    @pytest.mark.parametrize("format", ["float32", "bfloat16"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("D", [1, 3, 77, 256, 511, 512])
    def test_any_number_of_inputs(self, format: Any, dtype: str, D: int) -> None:
        """Odd ones, for which pairs are padded, and powers of two, whose rows are spread."""
        weight = prepare(weight_of((D, 20)), format=format)
        x = rows_of((14, D), dtype)
        out = self.run(x, weight, output_dtype=jnp.float32)
        assert_close(out, reference(x, weight))

    def test_a_sum_past_the_smallest_and_largest_numbers(self) -> None:
        weight = prepare(jnp.full((32, 16), 2.0), format="float32")
        x = jnp.stack([jnp.full(32, v) for v in (jnp.nan, jnp.inf, 3e38, 1e-42, 0.0)])
        out = np.asarray(self.run(x, weight))[:, 0]
        assert np.isnan(out[0]) and out[1] == out[2] == np.inf
        assert out[3] == pytest.approx(64e-42, rel=1e-2) and out[4] == 0

    def test_numbers_are_rounded_to_the_nearest(self) -> None:
        weight = prepare(jnp.eye(64), format="float32")
        x = rows_of((20, 64))
        np.testing.assert_array_equal(
            self.run(x, weight, output_dtype=jnp.bfloat16), x.astype(jnp.bfloat16)
        )


@needs_compiler
@pytest.mark.usefixtures("one_device")
def test_a_cpu_without_wide_vectors_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile, "_this_machine_flag", lambda: "-g0")  # the oldest CPU of its kind
    portable = dataclasses.replace(native.LIBRARY, cache_dir=tmp_path)
    monkeypatch.setattr(native, "LIBRARY", portable)
    for format in FORMATS:
        weight = prepare(weight_of((64, 40)), format=format)
        for dtype in ("float32", "bfloat16"):
            x = rows_of((15, 64), dtype)
            out = matmul(x, weight, output_dtype=jnp.float32, implementation="native")
            assert_close(out, reference(x, weight))
            alone = matmul(x[7], weight, output_dtype=jnp.float32, implementation="native")
            np.testing.assert_array_equal(alone, out[7])


@needs_compiler
@pytest.mark.usefixtures("one_device")
@given(
    M=st.integers(1, 40),
    D=st.sampled_from([8, 16, 64, 72, 128]),
    F=st.integers(1, 70),
    format=st.sampled_from(FORMATS),
)
@settings(deadline=None, max_examples=15)
def test_native_agrees_with_xla_on_any_shape(M: int, D: int, F: int, format: Any) -> None:
    weight, x = prepare(weight_of((D, F)), format=format), rows_of((M, D))
    assert_close(
        matmul(x, weight, implementation="native"), matmul(x, weight, implementation="xla")
    )


@needs_compiler
@pytest.mark.usefixtures("one_device")
def test_a_layer_of_a_stack_is_not_copied() -> None:
    weight = prepare(weight_of((6, 128, 512)), format="float32")
    fn = lambda x, w, i: matmul(x, w.at_layer(i), implementation="native")
    analysis = jax.jit(fn).lower(rows_of((1, 128)), weight, jnp.int32(2)).compile()
    memory = analysis.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 128 * 512 * 4


@needs_compiler
@pytest.mark.usefixtures("one_device")
def test_the_choice_can_be_printed() -> None:
    x, weight_DF = rows_of((2, 64)), weight_of((64, 32))
    panels = explain(x, prepare(weight_DF, format="int8"))
    assert str(panels) == "matmul: native\n  also possible: xla"
    assert "native: needs a weight from prepare" in str(explain(x, weight_DF))
    plain = explain(x, prepare(weight_DF, format="int8", layout="plain"))
    assert plain.name == "xla"
    half = explain(x.astype(jnp.float16), prepare(weight_DF, format="int8"))
    assert half.name == "xla" and "float16" in str(half)


def test_an_array_is_multiplied_as_it_is() -> None:
    x, weight_DF = rows_of((2, 3, 64)), weight_of((64, 32))
    assert_close(matmul(x, weight_DF), np.asarray(x, np.float64) @ np.asarray(weight_DF))


def test_mistakes_are_named() -> None:
    x, weight_DF = rows_of((2, 64)), weight_of((64, 32))
    with pytest.raises(ValueError, match=r"got \(2, 64\) and \(32, 64\)"):
        matmul(x, weight_DF.T)
    with pytest.raises(ValueError, match="at_layer"):
        matmul(x, prepare(weight_of((3, 64, 32)), format="int8"))
    with pytest.raises(ValueError, match="x is int32"):
        matmul(x.astype(jnp.int32), weight_DF)
    with pytest.raises(NotImplementedError, match="needs a weight from prepare"):
        matmul(x, weight_DF, implementation="native")
