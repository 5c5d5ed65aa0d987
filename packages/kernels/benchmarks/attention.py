"""Attention, forward and backward, against hand-written calls of `jax.nn.dot_product_attention`.

    python -m benchmarks.attention        # in packages/kernels

Decides `CHUNKED_FROM_CPU` and `blocks.json`. Axes: B batch, S sequence, N heads, H head dim.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from benchmarks.side_by_side import print_report, save, side_by_side

from trellax.kernels.attention import attention
from trellax.kernels.masks import CausalMask, SegmentMask

SHAPES = [(8, 64, 8, 48), (8, 128, 8, 64), (8, 256, 8, 64), (8, 512, 8, 48), (1, 2048, 8, 64)]


def gradient_fn(fn: Callable[..., jax.Array], *, remat: bool) -> Callable[..., tuple]:
    fn = jax.checkpoint(fn) if remat else fn
    return jax.grad(lambda q, k, v: (fn(q, k, v) ** 2).sum(), argnums=(0, 1, 2))


def hand_written(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def with_implementation(name: str | None) -> Callable[..., jax.Array]:
    return lambda q, k, v: attention(q, k, v, mask=CausalMask(), implementation=name)


def packed(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The default, with segments as in packed training."""
    ids = 1 + (jnp.arange(q.shape[1]) // 100)[None]
    mask = CausalMask() & SegmentMask()
    return attention(q, k, v, mask=mask, query_segments=ids, key_segments=ids)


def main() -> None:
    reports = {}
    for B, S, N, H in SHAPES:
        qkv = tuple(jax.random.normal(jax.random.key(i), (B, S, N, H)) for i in range(3))
        fns = {
            "hand-written jax.nn": hand_written,
            "default": with_implementation(None),
            "default, packed": packed,
            "xla": with_implementation("xla"),
            "xla_chunked": with_implementation("xla_chunked"),
            "jax_nn": with_implementation("jax_nn"),
        }
        for remat in (False, True):
            candidates = {name: (gradient_fn(fn, remat=remat), qkv) for name, fn in fns.items()}
            title = f"B{B} S{S} N{N} H{H} float32 causal, gradient" + ", remat" * remat
            reports[title] = side_by_side(candidates, rounds=9)
            print_report(title, reports[title])
    save("attention", reports)


if __name__ == "__main__":
    main()
