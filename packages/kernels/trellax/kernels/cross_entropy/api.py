"""The cross-entropy op: its signature, and which implementation serves which call.

    sums = cross_entropy(hidden_ND, unembedding_DV, targets_N, z_loss_scale=1e-4)
    mean_loss = sums.total / sums.weight

Axes: N tokens, D model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float, Int

from trellax.kernels import dispatch
from trellax.kernels.cross_entropy import chunked, dense
from trellax.kernels.cross_entropy.call import (
    CrossEntropyCall,
    CrossEntropySums,
    UnembeddingAxes,
    make_call,
)

DENSE = dispatch.Implementation("dense", dense.run, dispatch.always)
CHUNKED = dispatch.Implementation("chunked", chunked.run, dispatch.always)
IMPLEMENTATIONS = (CHUNKED, DENSE)

DENSE_BELOW_BYTES = 32 * 2**20
"""Logits smaller than this are computed at once: too few for chunks to save memory or time."""


def cross_entropy(
    hidden: Float[Array, "N D"],
    unembedding: Float[Array, "D V"] | Float[Array, "V D"],
    targets: Int[Array, " N"],
    *,
    weights: Float[Array, " N"] | None = None,
    unembedding_axes: UnembeddingAxes = "DV",
    z_loss_scale: float = 0.0,
    soft_cap: float | None = None,
    chunk_size: int | None = None,
    implementation: dispatch.Requested = None,
) -> CrossEntropySums:
    """Sums the cross-entropy of softmax(hidden · unembedding) against targets.

    Args:
        hidden: final hidden states of the tokens, flattened over batch and sequence.
        unembedding: output projection, in the dtype of `hidden`.
        targets: token ids; a negative one is ignored.
        weights: weight of each token; None for 1. No gradient flows to it.
        unembedding_axes: "VD" when `unembedding` is an embedding table, as with tied embeddings.
        z_loss_scale: factor of the squared log-normaliser (PaLM, 2204.02311, section 5).
        soft_cap: c in c·tanh(logit / c), or None.
        chunk_size: tokens whose logits are alive at once, for implementations that chunk; None for 16 MiB
            of them on CPU and an eighth of the tokens elsewhere.
        implementation: None for the best; a name of `IMPLEMENTATIONS`; or names, tried in order.

    Returns:
        Float32 sums. Differentiate `total`; the others are reports without gradient. Logits,
        log-normalisers and sums are float32 whatever the inputs are.

    Raises:
        ValueError: shapes do not fit, or a name is unknown.
    """
    call = make_call(
        hidden,
        unembedding,
        targets,
        weights=weights,
        unembedding_axes=unembedding_axes,
        z_loss_scale=z_loss_scale,
        soft_cap=soft_cap,
        chunk_size=chunk_size,
    )
    return _choose(call, implementation).implementation.run(call)


def explain(
    hidden: Any,
    unembedding: Any,
    targets: Any,
    *,
    implementation: dispatch.Requested = None,
    **options: Any,
) -> dispatch.Choice:
    """Tells which implementation `cross_entropy` would take and why not the others.

    Takes the arguments of `cross_entropy`; arrays may be `jax.ShapeDtypeStruct`. Computes nothing.
    """
    return _choose(make_call(hidden, unembedding, targets, **options), implementation)


def _choose(call: CrossEntropyCall, implementation: dispatch.Requested) -> dispatch.Choice:
    small = call.chunk_size is None and call.logits_bytes < DENSE_BELOW_BYTES
    ordered = (DENSE, CHUNKED) if small else (CHUNKED, DENSE)
    return dispatch.choose("cross_entropy", ordered, requested=implementation, call=call)
