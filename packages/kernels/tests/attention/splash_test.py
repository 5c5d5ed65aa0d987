"""The TPU kernel, emulated: parity of the mapping from masks, segments and heads."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.suite import Case, make_inputs, reference
from tests.tolerances import assert_close
from trellax.kernels.attention import splash
from trellax.kernels.attention.call import make_call
from trellax.kernels.masks import CausalMask, FullMask, Mask, SegmentMask, SlidingWindowMask

SHAPE: dict[str, Any] = {"B": 1, "S": 256, "T": 256, "N": 2, "H": 128}
CASES = [
    Case("full", **SHAPE, K=2),
    Case("causal_grouped", **SHAPE, K=1, mask=CausalMask(), soft_cap=3.0),
    Case("window", **SHAPE, K=2, mask=SlidingWindowMask(70), scale=0.1),
    Case("packed", **SHAPE, K=2, mask=CausalMask() & SegmentMask(), segments=True),
]


def run(arrays: list, options: dict[str, Any]) -> jax.Array:
    call = make_call(*arrays, **options)
    assert splash.unsupported(call) is None
    return splash.run(call, interpret=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_emulated_kernel_matches_float64(case: Case) -> None:
    arrays, options = make_inputs(case)
    out = run([jnp.asarray(x) for x in arrays], options)
    assert_close(out, reference(case, arrays, options), gradient=True)
    if case.segments:
        assert not np.asarray(out)[options["query_segments"] == 0].any()


def test_emulated_gradients_match_reference() -> None:
    case = Case("packed", **SHAPE, K=1, mask=CausalMask() & SegmentMask(), segments=True)
    arrays, options = make_inputs(case)
    arrays = [jnp.asarray(x) for x in arrays]
    actual = jax.grad(lambda x: (run(x, options) ** 2).sum())(arrays)
    expected = jax.grad(lambda x: (reference(case, x, options, jnp) ** 2).sum())(arrays)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, gradient=True)


class PrefixMask(Mask):
    """A mask that no kernel knows."""

    def allows(self, q_pos: Any, k_pos: Any, q_seg: Any, k_seg: Any) -> Any:
        return (q_pos >= k_pos) | (k_pos < 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"S": 200}, "multiples of 128"),
        ({"alibi": True}, "score bias"),
        ({"positions": True, "S": 128}, "implicit positions"),
        ({"mask": PrefixMask()}, "causal, window and segment masks only"),
        ({"S": 256, "T": 128, "mask": SlidingWindowMask(64)}, "without any key"),
    ],
)
def test_refusals_name_the_reason(change: dict[str, Any], reason: str) -> None:
    case = Case("", **({**SHAPE, "K": 2, "mask": FullMask()} | change))
    arrays, options = make_inputs(case)
    assert reason in str(splash.unsupported(make_call(*arrays, **options)))
