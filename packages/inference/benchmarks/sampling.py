"""A step's sampling against ways that sort, or that draw a random number for each token.

    python -m benchmarks.sampling [ROWSxVOCABULARY …]        # in packages/inference

Prints the best and the median time of each in milliseconds, on the device that JAX finds. Axes: R rows, V vocabulary.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from trellax.inference.requests import SamplingParams
from trellax.inference.sampling import SamplingRows, sample, variant_for

SHAPES = [(1, 49152), (8, 49152), (32, 49152), (64, 49152), (8, 151936), (64, 151936)]

WORKLOADS = {
    "greedy": SamplingParams(temperature=0.0),
    "greedy, log-probability": SamplingParams(temperature=0.0, logprobs=0),
    "greedy, 20 alternatives": SamplingParams(temperature=0.0, logprobs=20),
    "temperature 1": SamplingParams(),
    "top_p 0.95": SamplingParams(top_p=0.95),
    "top_p 0.5": SamplingParams(top_p=0.5),
    "top_k 20, top_p 0.95": SamplingParams(top_k=20, top_p=0.95, temperature=0.6),
    "top_k 50": SamplingParams(top_k=50),
    "top_k 500 (searched)": SamplingParams(top_k=500),
    "min_p 0.1": SamplingParams(min_p=0.1),
    "penalties": SamplingParams(frequency_penalty=0.5, repetition_penalty=1.1),
}


def argmax(logits_RV: jax.Array) -> jax.Array:
    return jnp.argmax(logits_RV, axis=-1)


def gumbel(logits_RV: jax.Array) -> jax.Array:
    return jax.random.categorical(jax.random.key(0), logits_RV)


def sorted_top_p(logits_RV: jax.Array, top_k: int = 20, top_p: float = 0.95) -> jax.Array:
    """Sorts the vocabulary, keeps what top_k and top_p do, and draws with Gumbel noise."""
    order_RV = jnp.argsort(-logits_RV, axis=-1)
    sorted_RV = jnp.take_along_axis(logits_RV, order_RV, axis=-1)
    sorted_RV = jnp.where(jnp.arange(logits_RV.shape[1]) < top_k, sorted_RV, -jnp.inf)
    probs_RV = jax.nn.softmax(sorted_RV, axis=-1)
    before_RV = jnp.cumsum(probs_RV, axis=-1) - probs_RV
    kept_RV = jnp.where(before_RV < top_p, sorted_RV, -jnp.inf)
    place_R = jax.random.categorical(jax.random.key(0), kept_RV)
    return jnp.take_along_axis(order_RV, place_R[:, None], axis=-1)


def times_ms(run: Callable[[], jax.Array], *, rounds: int) -> tuple[float, float]:
    """Returns the best and the median."""
    jax.block_until_ready(run())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(1e3 * (time.perf_counter() - start))
    return min(times), float(np.median(times))


def report(name: str, compiled: Callable[..., jax.Array], *args: object, rounds: int = 15) -> None:
    best, median = times_ms(lambda: compiled(*args), rounds=rounds)
    print(f"  {name:34} {best:9.2f} {median:9.2f}", flush=True)


def benchmark(R: int, V: int) -> None:
    print(f"{R} rows of {V} tokens on {jax.devices()[0].device_kind}: best and median, ms")
    # Logits whose entropy is that of a language model's: most of the mass on a few hundred tokens.
    logits_RV = jax.random.gumbel(jax.random.key(1), (R, V)) * 1.5
    zeros_RV = jnp.zeros((R, V), jnp.int32)
    for name, params in WORKLOADS.items():
        rows = jax.device_put(SamplingRows.of([params] * R, range(R), [0] * R, R))
        variant = variant_for([params], False)
        history = {"counts_RV": zeros_RV, "prompt_RV": zeros_RV > 0} if variant.penalizes else {}
        run = jax.jit(sample, static_argnames="variant").lower(
            logits_RV, rows, variant=variant, **history
        )
        compiled = run.compile()
        report(name, lambda *args, c=compiled, h=history: c(*args, **h), logits_RV, rows)
    report("jnp.argmax", jax.jit(argmax), logits_RV)
    report("jax.random.categorical", jax.jit(gumbel), logits_RV, rounds=3)
    report("sort, top_k 20, top_p 0.95", jax.jit(sorted_top_p), logits_RV, rounds=2)


def main() -> None:
    shapes = [tuple(map(int, shape.split("x"))) for shape in sys.argv[1:]] or SHAPES
    for R, V in shapes:
        benchmark(R, V)


if __name__ == "__main__":
    main()
