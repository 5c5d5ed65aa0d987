"""Choosing among implementations of attention, and its errors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import assert_close
from trellax.kernels.attention import AlibiBias, attention, cudnn, explain
from trellax.kernels.attention.call import make_call
from trellax.kernels.dispatch import UnsupportedError
from trellax.kernels.masks import CausalMask, Mask, SegmentMask


def struct(S: int, N: int = 4, H: int = 16, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, S, N, H), dtype)


def test_none_takes_the_fastest_measured_on_cpu() -> None:
    long, short = struct(512), struct(64)
    assert explain(long, long, long, mask=CausalMask()).name == "xla_chunked"
    assert explain(short, short, short, mask=CausalMask()).name == "xla"


def test_explain_prints_the_choice_and_every_refusal() -> None:
    x = struct(64)
    text = str(explain(x, x, x, soft_cap=3.0))
    assert text.startswith("attention: xla\n")
    for line in ("refused splash: needs a TPU", "refused cudnn: needs an NVIDIA", "refused jax_nn"):
        assert line in text


def test_named_implementation_that_cannot_raises_its_reason() -> None:
    x = jnp.ones((1, 8, 2, 8))
    with pytest.raises(UnsupportedError, match="splash: needs a TPU, and this is traced for cpu"):
        attention(x, x, x, implementation="splash")


def test_sequence_is_tried_in_order_and_fails_with_all_reasons() -> None:
    x = jnp.ones((1, 8, 2, 8))
    assert explain(x, x, x, implementation=("splash", "jax_nn")).name == "jax_nn"
    with pytest.raises(UnsupportedError) as error:
        attention(x, x, x, implementation=("splash", "cudnn"))
    assert [refusal.name for refusal in error.value.refusals] == ["splash", "cudnn"]


def test_unknown_name_lists_the_known_and_the_near() -> None:
    x = jnp.ones((1, 8, 2, 8))
    with pytest.raises(ValueError, match="Did you mean 'xla_chunked'"):
        attention(x, x, x, implementation="xla_chunk")
    with pytest.raises(ValueError, match="names none"):
        attention(x, x, x, implementation=())


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((1, 8, 3, 8), (1, 8, 2, 8)), {}, "no multiple of 2 kv heads"),
        (((1, 8, 2, 8), (1, 8, 2, 4)), {}, "head dim differ"),
        (((8, 2, 8), (1, 8, 2, 8)), {}, r"expected query \[B, S, N, H\]"),
        (((1, 8, 2, 8), (1, 8, 2, 8)), {"query_positions": jnp.ones((1, 8))}, "both query_pos"),
        (((1, 8, 2, 8), (1, 8, 2, 8)), {"soft_cap": -1.0}, "soft_cap must be positive"),
    ],
)
def test_bad_arguments_are_named(shapes: Any, options: dict[str, Any], message: str) -> None:
    q, k = (jnp.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        attention(q, k, k, **options)


@pytest.mark.parametrize(
    ("x", "options", "reason"),
    [
        (struct(8), {}, "bfloat16 and float16"),
        (struct(8, H=12, dtype=jnp.bfloat16), {}, "multiple of 8"),
        (struct(8, dtype=jnp.bfloat16), {"soft_cap": 1.0}, "soft cap"),
        (struct(7, dtype=jnp.bfloat16), {"bias": AlibiBias.for_heads(4)}, "must be even"),
        (struct(8, dtype=jnp.bfloat16), {"mask": CausalMask()}, None),
    ],
)
def test_cudnn_refusals_name_the_reason(x: Any, options: dict, reason: str | None) -> None:
    actual = cudnn.unsupported(make_call(x, x, x, **options))
    assert (reason is None and actual is None) or str(reason) in str(actual)


def test_alibi_slopes_are_those_of_the_paper() -> None:
    np.testing.assert_allclose(AlibiBias.for_heads(8).slopes, [2.0**-i for i in range(1, 9)])
    assert len(AlibiBias.for_heads(12).slopes) == 12
    assert AlibiBias.for_heads(12).slopes[8] == 2.0**-0.5


def test_a_new_mask_is_served_by_portable_implementations() -> None:
    class EvenKeys(Mask):
        def allows(self, q_pos: Any, k_pos: Any, q_seg: Any, k_seg: Any) -> Any:
            return (q_pos >= k_pos) & (k_pos % 2 == 0)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 12, 2, 8)), jnp.float32)
    outs = [attention(x, x, x, mask=EvenKeys(), implementation=i) for i in ("xla", "xla_chunked")]
    assert_close(*outs)


def test_tiled_gradient_agrees_with_reference_in_shard_map() -> None:
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 2, 8)), jnp.float32)
    spec = jax.sharding.PartitionSpec("data")

    def gradient(x: jax.Array, implementation: str) -> jax.Array:
        mask = CausalMask() & SegmentMask()
        return jax.grad(
            lambda x: (attention(x, x, x, mask=mask, implementation=implementation) ** 2).sum()
        )(x)

    mapped = jax.shard_map(
        lambda x: gradient(x, "xla_chunked"), mesh=mesh, in_specs=spec, out_specs=spec
    )
    assert_close(jax.jit(mapped)(x), gradient(x, "xla"), gradient=True)
