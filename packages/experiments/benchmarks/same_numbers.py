"""Do engines say what training computes? Every registered model, every layout of caches, every way of making steps.

    python -m benchmarks.same_numbers float32 [--save] [--models NAME ...]
    python -m benchmarks.same_numbers bfloat16 [--save]

Models are tiny versions of the registered ones, those alike but for sizes once. Engines answer greedily; each log-probability that
they give is compared with that of the training forward pass over the whole text, in the same type. Ends with 1 if one is off by
more than `TOLERANCES`. Eight-bit caches round what they hold: how far they are off is told, not judged. Nearly all of its time is
compiling: with JAX_DISABLE_MOST_OPTIMIZATIONS=1 it takes less than half as long.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import re
import statistics
import sys
import time
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import measuring

from trellax.config import finalize, replace_config
from trellax.experiments.registry import experiment_names, get_experiment
from trellax.experiments.rehearsal import RehearsalModifier
from trellax.inference.disaggregation import (
    DisaggregatedEngine,
    EngineRole,
    LocalDecodeWorker,
    LocalPrefillWorker,
    PageReceiver,
    PageSender,
    StateLayout,
)
from trellax.inference.engine import Engine, EngineConfig, EngineCore, ModelCard, build_core
from trellax.inference.requests import Output, Request, SamplingParams
from trellax.layers import TokenInfo, functional
from trellax.layers.attention import ContiguousCache, SlidingCache, SlidingWindow
from trellax.runtime import use_compilation_cache

TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2}
"""Absolute difference of log-probabilities, by the type of parameters and activations."""

TINY = {"dim": 32, "max_layers": 2, "max_experts": 4, "head_dim": 8, "vocab_size": 64}
# The first two fit into a cache of MAX_LENGTH tokens, and outgrow it together.
PROMPTS = (tuple(range(1, 17)), tuple(range(60, 45, -1)), (5, 9, 2), (7,))
MAX_TOKENS, MAX_LENGTH, WINDOW = 8, 40, 6
ENGINE: dict[str, Any] = {
    "max_length": MAX_LENGTH,
    "max_sequences": 2,
    "max_tokens_per_step": 16,
    "max_prefill_rows": 1,
    "tile_length": 8,
    "page_size": 4,
    "warms_up": False,
    "unrolls": False,
}

LAYOUTS: dict[str, dict[str, Any]] = {
    "paged": {},
    "contiguous": {"cache": "contiguous"},
    "ring": {},
    "paged int8": {"cache_dtype": "int8"},
    "paged float8": {"cache_dtype": "float8_e4m3fn"},
}
WAYS: dict[str, dict[str, Any]] = {
    "one at a time": {"max_sequences": 1, "max_tokens_per_step": 24},
    "mixed batches": {},
    "small chunks": {"max_tokens_per_step": 9},
    "pre-empted, computed again": {"cache_tokens": MAX_LENGTH},
    "pre-empted, swapped": {"cache_tokens": MAX_LENGTH, "preemption": "swap", "swap_tokens": 200},
    "unrolled": {"unrolls": True},
    "disaggregated": {},
}
WAYS_OF_EIGHT_BITS = ("mixed batches", "disaggregated")
FINGERPRINT = "tiny"


@dataclasses.dataclass
class Table:
    """`cells[model][dtype][layout][way]`: the largest and the median difference, and how many were compared."""

    cells: dict[str, Any]
    failed: int


def distinct_models() -> dict[str, Any]:
    """Returns tiny models of all experiments, those that are alike but for sizes once."""
    found: dict[str, tuple[str, Any]] = {}
    for name in experiment_names():
        cfg: Any = get_experiment(name)
        RehearsalModifier.default_config().set(**TINY).instantiate().apply(cfg)
        kind = re.sub(r"(num_layers|num_heads|num_kv_heads|hidden_dim)=\d+", "", str(cfg.model))
        found.setdefault(kind, (name, cfg.model))
    return dict(found.values())


def laid_out(model_cfg: Any, layout: str) -> Any:
    """Returns the model, with a sliding window that a ring serves if the layout is one."""
    cfg = model_cfg.clone()
    if layout == "ring":
        window = SlidingWindow.default_config().set(window=WINDOW)
        cfg.decoder.stack.layer.attention.mask = window
        replace_config(cfg, ContiguousCache, SlidingCache.default_config().set(window=WINDOW))
    return cfg


def initial_params(model_cfg: Any, dtype: str) -> Any:
    params = jax.jit(finalize(model_cfg.clone()).instantiate().init)(jax.random.key(1))
    return jax.tree.map(lambda x: x.astype(dtype), params)


def requests() -> list[Request]:
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0, logprobs=0)
    return [Request(str(number), prompt, sampling) for number, prompt in enumerate(PROMPTS)]


def make_core(
    model_cfg: Any, params: Any, *, prefill_only: bool = False, **fields: Any
) -> EngineCore:
    cfg = EngineConfig.default_config().set(**ENGINE | fields)
    return build_core(
        finalize(cfg),
        model_cfg,
        lambda model, shardings: params,
        prefill_only=prefill_only,
        checks_invariants=True,
    )


def outputs_of(core: EngineCore) -> Iterable[Output]:
    """Yields what a core answers."""
    for request in requests():
        core.add(request)
    while core.has_work:
        yield from core.step()


async def handed_over(prefill: EngineCore, decode: EngineCore) -> list[Output]:
    """Returns what two engines answer, one of which computes prompts and hands them over a socket."""
    card = ModelCard(id=FINGERPRINT, max_length=MAX_LENGTH, vocab_size=TINY["vocab_size"])
    tokenizer: Any = types.SimpleNamespace(eos_ids=frozenset())
    async with contextlib.AsyncExitStack() as stack:
        engines = [Engine(core, tokenizer=tokenizer, model=card) for core in (prefill, decode)]
        for engine in engines:
            stack.callback(engine.close)
        roles = [
            EngineRole(e, StateLayout.of(c))
            for e, c in zip(engines, (prefill, decode), strict=True)
        ]
        receiver = PageReceiver(fingerprint=FINGERPRINT, capacity_bytes=1 << 22)
        decoding = await stack.enter_async_context(
            LocalDecodeWorker(roles[1], receiver, name="d", max_running=2, target=receiver.address)
        )
        prefilling = LocalPrefillWorker(
            roles[0],
            name="p",
            max_running=2,
            room_bytes=1 << 22,
            connect_fn=lambda target: PageSender(target, fingerprint=FINGERPRINT),
        )
        stack.push_async_callback(prefilling.close)
        both = DisaggregatedEngine(
            card, tokenizer, [prefilling], [decoding], check_fn=engines[1].check, page_size=4
        )
        return [output async for output in both.generate(requests())]


def drawn(outputs: Iterable[Output]) -> list[tuple[list[int], list[float]]]:
    """Returns the tokens drawn for each prompt, and their log-probabilities."""
    found: list[tuple[list[int], list[float]]] = [([], []) for _ in PROMPTS]
    for output in outputs:
        token_ids, logprobs = found[int(output.request_id)]
        token_ids += output.token_ids
        logprobs += [one.logprob for one in output.logprobs or ()]
    return found


def trained_logprobs(model_cfg: Any, params: Any, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns log-probabilities [B, S, V] of the training forward pass over rows."""
    model = finalize(model_cfg.clone()).instantiate()
    padded = jnp.asarray([[*row, *[0] * (MAX_LENGTH - len(row))] for row in rows], jnp.int32)

    @jax.jit
    def logits(params: Any, ids: jax.Array) -> jax.Array:
        args = (ids, TokenInfo.contiguous(*ids.shape))
        return functional(model, params=params, args=args, is_training=False, method="logits")[0]

    return np.asarray(jax.nn.log_softmax(logits(params, padded).astype(jnp.float32), axis=-1))


def differences(
    model_cfg: Any, params: Any, found: list[tuple[list[int], list[float]]]
) -> list[float]:
    """Returns how far each log-probability is from training's; asserts that all are there and greedy."""
    rows = [(*prompt, *token_ids) for prompt, (token_ids, _) in zip(PROMPTS, found, strict=True)]
    expected = trained_logprobs(model_cfg, params, rows)
    differing = []
    for number, (token_ids, logprobs) in enumerate(found):
        assert len(token_ids) == len(logprobs) == MAX_TOKENS, (number, token_ids, logprobs)
        for at, (token, logprob) in enumerate(zip(token_ids, logprobs, strict=True)):
            row = expected[number, len(PROMPTS[number]) + at - 1]
            differing.append(float(max(abs(logprob - row[token]), (row.max() - row[token]) / 2)))
    return differing


def measured(model_cfg: Any, params: Any, dtype: str, layout: str, way: str) -> dict[str, Any]:
    """Runs one cell of the table."""
    fields = {"dtype": dtype} | LAYOUTS[layout] | WAYS[way]
    core = make_core(model_cfg, params, **fields)
    if way == "disaggregated":
        prefill = make_core(model_cfg, params, prefill_only=True, **fields)
        found = drawn(asyncio.run(asyncio.wait_for(handed_over(prefill, core), 240)))
    else:
        found = drawn(outputs_of(core))
    off = differences(model_cfg, params, found)
    cell = {"largest": max(off), "median": statistics.median(off), "compared": len(off)}
    if way.startswith("pre-empted"):
        cell["preemptions"] = core.state.num_preemptions
        assert cell["preemptions"], "Nothing was pre-empted."
    return cell


def is_judged(layout: str) -> bool:
    return "cache_dtype" not in LAYOUTS[layout]


def table(
    models: Sequence[str],
    dtypes: Sequence[str],
    *,
    layouts: Sequence[str] = tuple(LAYOUTS),
    ways: Sequence[str] = tuple(WAYS),
    tolerances: Mapping[str, float] = TOLERANCES,
) -> Table:
    """Measures every cell, and prints a line for each model and type, and for each cell that is off."""
    known = distinct_models()
    found = Table({}, 0)
    for name, dtype in itertools.product(models, dtypes):
        started = time.perf_counter()
        rows = found.cells.setdefault(name, {}).setdefault(dtype, {})
        for layout in layouts:
            model_cfg = laid_out(known[name], layout)
            params = initial_params(model_cfg, dtype)
            row = rows[layout] = {
                way: measured(model_cfg, params, dtype, layout, way)
                for way in ways
                if is_judged(layout) or way in WAYS_OF_EIGHT_BITS
            }
            off = {way: c["largest"] for way, c in row.items() if c["largest"] > tolerances[dtype]}
            for way in off if is_judged(layout) else ():
                found.failed += 1
                print(f"{name} {dtype} {layout} {way}: off by {off[way]:.2g}", flush=True)
        jax.clear_caches()
        told = {k: f"{max(c['largest'] for c in row.values()):.1e}" for k, row in rows.items()}
        print(f"{name} {dtype} ({time.perf_counter() - started:.0f} s): {told}", flush=True)
    return found


def main() -> int:
    models = distinct_models()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dtype", choices=list(TOLERANCES))
    parser.add_argument("--models", nargs="*", default=list(models), choices=list(models))
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    use_compilation_cache(min_compile_s=0.0)  # Many cells have programs in common.
    found = table(given.models, [given.dtype])
    print(f"{found.failed} cells are off by more than {TOLERANCES[given.dtype]}")
    if given.save:
        cells = {name: by_dtype[given.dtype] for name, by_dtype in found.cells.items()}
        is_optimized = not jax.config.read("jax_disable_most_optimizations")
        report = {"tolerance": TOLERANCES[given.dtype], "xla_optimizes": is_optimized}
        report["cells"] = cells
        measuring.save(f"same_numbers_{given.dtype}", report)
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
