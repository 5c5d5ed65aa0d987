"""Grouped matrix products, forward and backward, on rows spread evenly and unevenly over groups.

    python -m benchmarks.grouped_matmul        # in packages/kernels

Axes: M rows, K contracted, N columns, G groups.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from benchmarks.side_by_side import print_report, save, side_by_side

from trellax.kernels.grouped_matmul import IMPLEMENTATIONS, grouped_matmul

SHAPES = [(256, 64, 128, 4), (4096, 256, 512, 8), (4096, 256, 256, 64)]


def gradient_fn(implementation: str) -> Callable[..., tuple]:
    def loss(lhs: jax.Array, rhs: jax.Array, group_sizes: jax.Array) -> jax.Array:
        return (grouped_matmul(lhs, rhs, group_sizes, implementation=implementation) ** 2).sum()

    return jax.grad(loss, argnums=(0, 1))


def main() -> None:
    reports = {}
    for M, K, N, G in SHAPES:
        lhs = jax.random.normal(jax.random.key(0), (M, K))
        rhs = jax.random.normal(jax.random.key(1), (G, K, N)) / K**0.5
        sizes = jnp.full(G, M // G).at[0].add(M // 4).at[1:].add(-(M // 4) // (G - 1) - 1)
        names = [implementation.name for implementation in IMPLEMENTATIONS]
        candidates = {
            name: (gradient_fn(name), (lhs, rhs, jnp.maximum(sizes, 0))) for name in names
        }
        title = f"M{M} K{K} N{N} G{G} float32, gradient"
        reports[title] = side_by_side(candidates, rounds=9)
        print_report(title, reports[title])
    save("grouped_matmul", reports)


if __name__ == "__main__":
    main()
