"""The attention op: its signature, and which implementation serves which call.

    out_BSNH = attention(q_BSNH, k_BTKH, v_BTKH, mask=CausalMask() & SegmentMask(), ...)
    print(explain(q_BSNH, k_BTKH, v_BTKH, mask=CausalMask()))

Axes: B batch, S query sequence, T key sequence, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float, Int

from trellax.kernels import dispatch, placement
from trellax.kernels.attention import cudnn, jax_nn, splash, xla, xla_chunked
from trellax.kernels.attention.bias import ScoreBias
from trellax.kernels.attention.call import AttentionCall, make_call
from trellax.kernels.masks import Mask

SPLASH = dispatch.Implementation("splash", splash.run, splash.refusal)
CUDNN = dispatch.Implementation("cudnn", cudnn.run, cudnn.refusal)
CHUNKED = dispatch.Implementation("xla_chunked", xla_chunked.run, xla_chunked.refusal)
XLA = dispatch.Implementation("xla", xla.run, dispatch.always)
JAX_NN = dispatch.Implementation("jax_nn", jax_nn.run, jax_nn.refusal)
IMPLEMENTATIONS = (SPLASH, CUDNN, CHUNKED, XLA, JAX_NN)

CHUNKED_FROM_CPU = 256 * 256
CHUNKED_FROM = 2048 * 2048
"""Query-key pairs from which `xla_chunked` is preferred to `xla`: measured on CPU (benchmarks/attention.py);
elsewhere where scores begin to dominate memory."""


def attention(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    *,
    mask: Mask | None = None,
    query_positions: Int[Array, "#B S"] | None = None,
    key_positions: Int[Array, "#B T"] | None = None,
    query_segments: Int[Array, "#B S"] | None = None,
    key_segments: Int[Array, "#B T"] | None = None,
    bias: ScoreBias | Float[Array, "#B #N S T"] | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    implementation: dispatch.Requested = None,
) -> Float[Array, "B S N H"]:
    """Computes softmax(cap(scale · QKᵀ) + bias, masked) V a head (1706.03762, equation 1).

    K may be N (multi-head), a divisor of it (grouped-query, 2305.13245) or 1 (multi-query, 1911.02150).

    Args:
        query: queries; float32, bfloat16 or float16, as key and value.
        key: keys.
        value: values.
        mask: what each query may attend to; None for everything.
        query_positions: places of the queries; None for 0, 1, 2, … Leave both None wherever the order in
            the array is the order in the document, as in training, packed or not: within a segment,
            causal and window masks then mean the same, and implementations can skip what is masked.
        key_positions: places of the keys; given exactly when `query_positions` is.
        query_segments: documents of the queries, 0 for padding; used by masks with `uses_segments`.
        key_segments: documents of the keys; given exactly when `query_segments` is.
        bias: a rule on positions such as `AlibiBias`, or an array; added after `soft_cap`.
        scale: factor of the scores; None for H^-0.5.
        soft_cap: c in c·tanh(score / c), or None.
        implementation: None for the best that supports the call; a name of `IMPLEMENTATIONS` that must;
            or names, tried in order.

    Returns:
        Weighted values in the query's dtype; softmax and sums are float32. A query that may attend to
        nothing (padding) gets zeros, and no gradient.

    Raises:
        ValueError: shapes or dtypes do not fit, or a name is unknown.
        UnsupportedError: no requested implementation supports the call; it lists every reason.
    """
    call = make_call(
        query,
        key,
        value,
        mask=mask,
        query_positions=query_positions,
        key_positions=key_positions,
        query_segments=query_segments,
        key_segments=key_segments,
        bias=bias,
        scale=scale,
        soft_cap=soft_cap,
    )
    return _choose(call, implementation).implementation.run(call)


def explain(
    query: Any, key: Any, value: Any, *, implementation: dispatch.Requested = None, **options: Any
) -> dispatch.Choice:
    """Tells which implementation `attention` would take and why not the others; computes nothing.

    Takes the arguments of `attention`; arrays may be `jax.ShapeDtypeStruct`.
    """
    return _choose(make_call(query, key, value, **options), implementation)


def _choose(call: AttentionCall, implementation: dispatch.Requested) -> dispatch.Choice:
    pairs = call.q_BSNH.shape[1] * call.k_BTKH.shape[1]
    chunk_from = CHUNKED_FROM_CPU if placement.platform() == "cpu" else CHUNKED_FROM
    portable = (CHUNKED, XLA, JAX_NN) if pairs >= chunk_from else (XLA, CHUNKED, JAX_NN)
    ordered = (SPLASH, CUDNN, *portable)
    return dispatch.choose("attention", ordered, requested=implementation, call=call)
