"""Few rows times the weights of a model, in every format of `native`, against XLA's product with a plain array.

    python -m benchmarks.matmul        # in packages/kernels

Each candidate goes through as many weights of a shape as take 120 MB in float32, so that they come from memory as they do when a
model decodes. Axes: M rows, D inputs, F outputs.
"""

from __future__ import annotations

from typing import Any

import jax
from benchmarks.side_by_side import print_report, save, side_by_side

from trellax.kernels.matmul import matmul, prepare

SHAPES = [(576, 960), (576, 3072), (1536, 576), (576, 49152), (4096, 11008)]
ROWS = [1, 8, 32, 256]
FORMATS = ("float32", "bfloat16", "int8", "int4", "int8_dynamic")
FLOAT32_BYTES = 120e6


def make_candidates(M: int, D: int, F: int, num_weights: int) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), num_weights)
    weights = [jax.random.normal(key, (D, F)) / D**0.5 for key in keys]
    candidates: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        x = jax.random.normal(jax.random.key(1), (M, D)).astype(dtype)
        arrays = [weight.astype(dtype) for weight in weights]
        candidates[f"{dtype} xla"] = (lambda x, ws: [x @ w for w in ws], (x, arrays))
        for format in FORMATS:
            if dtype == "bfloat16" and format == "float32":
                continue
            prepared = [prepare(weight, format=format) for weight in weights]
            candidates[f"{dtype} native {format}"] = (native, (x, prepared))
    return candidates


def native(x: jax.Array, weights: Any) -> list[jax.Array]:
    return [matmul(x, weight, implementation="native") for weight in weights]


def main() -> None:
    reports = {}
    for D, F in SHAPES:
        num_weights = max(1, round(FLOAT32_BYTES / (4 * D * F)))
        for M in ROWS:
            title = f"M{M} D{D} F{F}, {num_weights} weights"
            reports[title] = side_by_side(make_candidates(M, D, F, num_weights), rounds=7)
            add_rates(reports[title], 2 * M * D * F * num_weights)
            print_report(title, reports[title])
    save("matmul", reports)


def add_rates(report: dict[str, Any], flops: int) -> None:
    """Adds the floating-point operations a CPU second."""
    for entry in report.values():
        entry["gflops_a_cpu_s"] = flops / entry["median_cpu_s"] / 1e9


if __name__ == "__main__":
    main()
