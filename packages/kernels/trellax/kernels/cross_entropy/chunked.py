"""Cross-entropy a chunk of tokens at a time: only [C, V] logits live at once, forward and backward.

When differentiated, the forward pass computes the gradient of each chunk while its logits are at hand and
keeps the gradients of hidden states and unembedding instead of logits; the backward pass scales them. That
needs the three matrix products of the dense loss and no recomputation (fused linear cross-entropy:
Liger Kernel, 2410.10989, section 3.2).

A chunk takes every (N / C)-th token, not C neighbours: when tokens are sharded over devices, each device then
has its share of every chunk.

Axes: N tokens, D model, V vocabulary, C tokens of a chunk, J chunks.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels import placement
from trellax.kernels.cross_entropy.call import (
    CrossEntropyCall,
    CrossEntropySums,
    UnembeddingAxes,
    capped_logits,
    target_logits,
)

CPU_CHUNK_BYTES = 16 * 2**20
"""Float32 logits of a default chunk on CPU, where they should stay in cache (benchmarks/cross_entropy.py)."""

NUM_CHUNKS = 8
"""Default chunks elsewhere: an eighth of the logits' memory, and products large enough for many devices."""


class _Options(NamedTuple):
    axes: UnembeddingAxes
    z_loss_scale: float
    soft_cap: float | None


class _Chunks(NamedTuple):
    hidden_JCD: Array
    targets_JC: Any
    weights_JC: Any


def run(call: CrossEntropyCall) -> CrossEntropySums:
    C = call.chunk_size or default_chunk_size(call)
    pad = -call.hidden_ND.shape[0] % C

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, pad)] + [(0, 0)] * (x.ndim - 1))
        return jnp.moveaxis(padded.reshape(C, -1, *x.shape[1:]), 1, 0)

    weights_N = call.token_weights()
    chunks = _Chunks(split(call.hidden_ND), split(call.targets_N), split(weights_N))
    options = _Options(call.axes, call.z_loss_scale, call.soft_cap)
    unembedding = placement.like_varying(call.unembedding, *chunks)
    total, loss, z_loss = _chunked_loss(options, chunks, unembedding)
    reports = jax.lax.stop_gradient((loss, z_loss, weights_N.sum()))
    return CrossEntropySums(total, *reports)


def default_chunk_size(call: CrossEntropyCall) -> int:
    """Tokens of a chunk when the caller does not say: equal chunks, of a multiple of 8 tokens."""
    N = call.hidden_ND.shape[0]
    on_cpu = placement.platform() == "cpu"
    num_chunks = max(1, round(call.logits_bytes / CPU_CHUNK_BYTES)) if on_cpu else NUM_CHUNKS
    return min(N, 8 * math.ceil(N / num_chunks / 8))


def _chunk_terms(options: _Options, logits_CV: Array, chunk: _Chunks) -> tuple[Array, Array, Array]:
    """Returns loss, z-loss and each token's log-normaliser."""
    _, targets_C, weights_C = chunk
    lse_C = jax.nn.logsumexp(logits_CV, axis=-1)
    loss = (weights_C * (lse_C - target_logits(logits_CV, targets_C))).sum()
    return loss, options.z_loss_scale * (weights_C * lse_C**2).sum(), lse_C


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked_loss(
    options: _Options, chunks: _Chunks, unembedding: Array
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    def step(sums: Array, chunk: _Chunks) -> tuple[Array, None]:
        logits_CV = capped_logits(
            chunk.hidden_JCD, unembedding, axes=options.axes, soft_cap=options.soft_cap
        )
        loss, z_loss, _ = _chunk_terms(options, logits_CV, chunk)
        return sums + jnp.stack([loss, z_loss]), None

    start = placement.like_varying(jnp.zeros(2, jnp.float32), *chunks)
    sums, _ = jax.lax.scan(step, start, chunks)
    return sums.sum(), sums[0], sums[1]


def _forward(options: _Options, chunks: _Chunks, unembedding: Array) -> tuple[Any, Any]:
    def step(carry: Any, chunk: _Chunks) -> tuple[Any, Array]:
        sums, d_unembedding = carry
        logits_CV = capped_logits(
            chunk.hidden_JCD, unembedding, axes=options.axes, soft_cap=options.soft_cap
        )
        loss, z_loss, lse_C = _chunk_terms(options, logits_CV, chunk)
        d_CV = _d_logits(options, logits_CV, lse_C, chunk).astype(unembedding.dtype)
        d_hidden_CD = jnp.einsum(
            f"CV,{options.axes}->CD", d_CV, unembedding, preferred_element_type=jnp.float32
        )
        d_unembedding += jnp.einsum(
            f"CD,CV->{options.axes}", chunk.hidden_JCD, d_CV, preferred_element_type=jnp.float32
        )
        return (sums + jnp.stack([loss, z_loss]), d_unembedding), d_hidden_CD

    start = (jnp.zeros(2, jnp.float32), jnp.zeros(unembedding.shape, jnp.float32))
    start = jax.tree.map(lambda x: placement.like_varying(x, *chunks), start)
    (sums, d_unembedding), d_hidden_JCD = jax.lax.scan(step, start, chunks)
    kept = (d_hidden_JCD.astype(chunks.hidden_JCD.dtype), d_unembedding.astype(unembedding.dtype))
    return (sums.sum(), sums[0], sums[1]), kept


def _d_logits(options: _Options, logits_CV: Array, lse_C: Array, chunk: _Chunks) -> Array:
    """d total / d uncapped logits: w·(p - onehot + 2·scale·lse·p), times the cap's derivative."""
    _, targets_C, weights_C = chunk
    z_C = 1.0 + 2.0 * options.z_loss_scale * lse_C
    p_CV = jnp.exp(logits_CV - lse_C[:, None])
    is_target_CV = jnp.arange(logits_CV.shape[1])[None, :] == targets_C[:, None]
    d_CV = weights_C[:, None] * (z_C[:, None] * p_CV - is_target_CV)
    return d_CV if options.soft_cap is None else d_CV * (1.0 - (logits_CV / options.soft_cap) ** 2)


def _backward(options: _Options, kept: Any, cotangents: Any) -> tuple[Any, Array]:
    del options
    d_hidden_JCD, d_unembedding = kept
    d_total = cotangents[0]
    d_chunks = _Chunks((d_total * d_hidden_JCD).astype(d_hidden_JCD.dtype), None, None)
    return d_chunks, (d_total * d_unembedding).astype(d_unembedding.dtype)


_chunked_loss.defvjp(_forward, _backward)
