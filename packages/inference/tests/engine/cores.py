"""Engines over tiny models, and how tests run requests through them.

core = tiny_core(llama())
texts = run(core, requests("abc", max_tokens=5))
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.generation.models import VOCAB_SIZE, built
from trellax.config import finalize
from trellax.inference.engine import EngineConfig, EngineCore, build_core
from trellax.inference.requests import Output, Request, SamplingParams
from trellax.inference.text import Tokenizer

SMALL: dict[str, Any] = {
    "max_length": 64,
    "max_sequences": 4,
    "max_tokens_per_step": 32,
    "max_prefill_rows": 2,
    "tile_length": 8,
    "page_size": 4,
    "warms_up": False,
    "seed": 0,
}


def tiny_core(
    model_cfg: Any, *, params: Any = None, tokenizer: Tokenizer | None = None, **fields: Any
) -> EngineCore:
    """Returns the core of a small engine that accounts for its pages after each step.

    Args:
        model_cfg: of a model of `tests.generation.models`.
        params: its parameters; None for those of `built`.
        tokenizer: for text; None for tokens only.
        fields: of the engine's config.
    """
    cfg = finalize(EngineConfig.default_config().set(**SMALL | fields))
    params = built(model_cfg.clone())[1] if params is None else params
    return build_core(
        cfg,
        model_cfg,
        lambda model, shardings: params,
        tokenizer=tokenizer,
        eos_ids=tokenizer.eos_ids if tokenizer is not None else frozenset(),
        checks_invariants=True,
    )


def prompts(lengths: Sequence[int], seed: int = 0) -> list[tuple[int, ...]]:
    """Returns random prompts."""
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(1, VOCAB_SIZE, n).tolist()) for n in lengths]


def requests(given: Sequence[tuple[int, ...]], **params: Any) -> list[Request]:
    """Returns a request for each prompt; greedy unless told otherwise."""
    sampling = SamplingParams(**{"temperature": 0.0, "max_tokens": 12} | params)
    return [Request(f"r{i}", prompt, sampling) for i, prompt in enumerate(given)]


def run(
    core: EngineCore, wanted: Sequence[Request], *, arrive_every: int = 0
) -> dict[str, list[Output]]:
    """Runs requests to their end; returns the pieces of each.

    Args:
        core: runs them.
        wanted: the requests.
        arrive_every: steps between their arrivals; 0 for all at once.
    """
    pieces: dict[str, list[Output]] = {request.id: [] for request in wanted}
    waiting, steps = list(wanted), 0
    while waiting or core.has_work:
        while waiting and steps >= arrive_every * (len(wanted) - len(waiting)):
            core.add(waiting.pop(0))
        for output in core.step():
            pieces[output.request_id].append(output)
        steps += 1
        assert steps < 2000, "it never ends"
    return pieces


def tokens(pieces: dict[str, list[Output]]) -> dict[str, list[int]]:
    """Returns the tokens of each request."""
    return {name: [t for o in outputs for t in o.token_ids] for name, outputs in pieces.items()}


@functools.cache
def parameters(kind: str) -> Any:
    """Returns (model config, parameters) of a kind of `tests.generation.models`."""
    from tests.generation.models import KINDS

    cfg = KINDS[kind]()
    return cfg, built(cfg.clone())[1]
