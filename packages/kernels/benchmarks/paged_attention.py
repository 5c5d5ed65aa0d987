"""Paged attention of decoding rows and of chunks of prompts: `native`, both XLA implementations, and XLA on contiguous keys.

    python -m benchmarks.paged_attention        # in packages/kernels

Each candidate attends in as many layers as hold 60 MB of keys and values in float32, so that they come from memory as they do in
a model. Axes: B rows, S queries a row, T keys written, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from benchmarks.side_by_side import print_report, save, side_by_side

from trellax.kernels.attention import attention
from trellax.kernels.masks import CausalMask
from trellax.kernels.paged_attention import IMPLEMENTATIONS, paged_attention

FLOAT32_BYTES = 60e6
MAX_LENGTH = 2048
"""What block tables are wide enough for."""


@dataclasses.dataclass(frozen=True)
class Shape:
    B: int
    S: int
    T: int
    N: int = 9
    K: int = 3
    H: int = 64
    page_size: int = 16

    @property
    def num_layers(self) -> int:
        return max(1, min(30, round(FLOAT32_BYTES / (8 * self.B * self.T * self.K * self.H))))

    @property
    def title(self) -> str:
        sizes = " ".join(f"{name}{getattr(self, name)}" for name in "BSTNKH")
        return f"{sizes} pages of {self.page_size}, {self.num_layers} layers"


SHAPES = [
    Shape(1, 1, 300),
    Shape(1, 1, 2000),
    Shape(8, 1, 300),
    Shape(32, 1, 300),
    Shape(8, 1, 2000),
    Shape(8, 1, 1024, N=32, K=8, H=128),
    Shape(1, 256, 256),
    Shape(1, 512, 512),
    Shape(1, 512, 2000),
    Shape(4, 128, 512, page_size=32),
]


def make_candidates(shape: Shape) -> dict[str, Any]:
    B, S, T, page_size = shape.B, shape.S, shape.T, shape.page_size
    P, used = MAX_LENGTH // page_size, -(-T // page_size)
    ids = jax.random.permutation(jax.random.key(0), B * used).reshape(B, used) + 1
    table_BP = jnp.zeros((B, P), jnp.int32).at[:, :used].set(ids.astype(jnp.int32))
    positions_BS = jnp.broadcast_to(jnp.arange(T - S, T, dtype=jnp.int32), (B, S))
    lengths_B = jnp.full(B, T, jnp.int32)
    candidates: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        q = jax.random.normal(jax.random.key(1), (B, S, shape.N, shape.H)).astype(dtype)
        pages = (shape.num_layers, B * used + 1, page_size, shape.K, shape.H)
        keys, values = (
            list(jax.random.normal(jax.random.key(i), pages).astype(dtype)) for i in (2, 3)
        )
        rows = (table_BP, positions_BS, lengths_B)
        for implementation in IMPLEMENTATIONS:
            fn = lambda q, keys, values, rows, name=implementation.name: [
                paged_attention(q, k, v, *rows, mask=CausalMask(), implementation=name)
                for k, v in zip(keys, values, strict=True)
            ]
            candidates[f"{dtype} {implementation.name}"] = (fn, (q, keys, values, rows))
        whole = lambda x: x[1:].reshape(B, used * page_size, shape.K, shape.H)[:, :T]
        arrays = (q, list(map(whole, keys)), list(map(whole, values)), positions_BS)
        candidates[f"{dtype} contiguous"] = (contiguous, arrays)
    return candidates


def contiguous(
    q: jax.Array, keys: list[jax.Array], values: list[jax.Array], positions_BS: jax.Array
) -> list[jax.Array]:
    k_pos_1T = jnp.arange(keys[0].shape[1], dtype=jnp.int32)[None]
    positions = {"query_positions": positions_BS, "key_positions": k_pos_1T}
    pairs = zip(keys, values, strict=True)
    return [attention(q, k, v, mask=CausalMask(), **positions) for k, v in pairs]


def main() -> None:
    reports = {}
    for shape in SHAPES:
        reports[shape.title] = side_by_side(make_candidates(shape), rounds=7)
        print_report(shape.title, reports[shape.title])
    save("paged_attention", reports)


if __name__ == "__main__":
    main()
