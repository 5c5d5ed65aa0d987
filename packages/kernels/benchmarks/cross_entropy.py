"""Cross-entropy of a head, forward and backward: all logits against chunks of them.

    python -m benchmarks.cross_entropy        # in packages/kernels

Decides `DENSE_BELOW_BYTES` and `DEFAULT_CHUNK_BYTES`. Axes: N tokens, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from benchmarks.side_by_side import print_report, save, side_by_side

from trellax.kernels.cross_entropy import cross_entropy

SHAPES = [(512, 256, 4096), (1024, 384, 8192), (4096, 384, 8192), (1024, 256, 32000)]
CHUNK_MEBIBYTES = (4, 16, 64)


def gradient_fn(implementation: str | None, chunk_size: int | None) -> Callable[..., tuple]:
    def total(hidden: jax.Array, unembedding: jax.Array, targets: jax.Array) -> jax.Array:
        return cross_entropy(
            hidden,
            unembedding,
            targets,
            z_loss_scale=1e-4,
            chunk_size=chunk_size,
            implementation=implementation,
        ).total

    return jax.grad(total, argnums=(0, 1))


def main() -> None:
    reports = {}
    for N, D, V in SHAPES:
        args = (
            jax.random.normal(jax.random.key(0), (N, D)),
            jax.random.normal(jax.random.key(1), (D, V)) / D**0.5,
            jax.random.randint(jax.random.key(2), (N,), 0, V),
        )
        candidates = {"dense": (gradient_fn("dense", None), args)}
        candidates["default"] = (gradient_fn(None, None), args)
        for size in CHUNK_MEBIBYTES:
            if size * 2**20 < 4 * N * V:
                fn = gradient_fn("chunked", size * 2**18 // V)
                candidates[f"chunked, {size} MiB"] = (fn, args)
        title = f"N{N} D{D} V{V} float32, gradient"
        reports[title] = side_by_side(candidates, rounds=7)
        print_report(title, reports[title])
    save("cross_entropy", reports)


if __name__ == "__main__":
    main()
