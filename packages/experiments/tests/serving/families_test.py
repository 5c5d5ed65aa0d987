"""Every registered model is served as it was trained: log-probabilities of the engine are those of the training forward pass."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trellax.config import finalize
from trellax.experiments.registry import experiment_names, get_experiment
from trellax.experiments.rehearsal import RehearsalModifier
from trellax.inference.engine import EngineConfig, EngineCore, build_core
from trellax.inference.requests import Request, SamplingParams
from trellax.layers import TokenInfo, functional

TINY = {"dim": 32, "max_layers": 2, "max_experts": 4, "head_dim": 8, "vocab_size": 64}
TOLERANCE = 1e-5
"""Absolute difference of log-probabilities in float32."""

PROMPTS = [(5, 9, 2), tuple(range(1, 24)), (7,)]
MAX_TOKENS = 6


def distinct_models() -> dict[str, Any]:
    """Returns tiny models of all experiments, those that are alike but for sizes once."""
    found: dict[str, tuple[str, Any]] = {}
    for name in experiment_names():
        cfg: Any = get_experiment(name)
        RehearsalModifier.default_config().set(**TINY).instantiate().apply(cfg)
        kind = re.sub(r"(num_layers|num_heads|num_kv_heads|hidden_dim)=\d+", "", str(cfg.model))
        found.setdefault(kind, (name, cfg.model))
    return dict(found.values())


MODELS = distinct_models()


def served(model_cfg: Any, params: Any) -> dict[str, tuple[list[int], list[float]]]:
    """Returns the tokens that an engine draws, and their log-probabilities, for each request."""
    engine_cfg = EngineConfig.default_config().set(
        max_length=32,
        max_sequences=2,
        max_tokens_per_step=16,
        max_prefill_rows=1,
        tile_length=8,
        page_size=4,
        warms_up=False,
        unrolls=False,
    )
    core = build_core(
        finalize(engine_cfg), model_cfg, lambda model, shardings: params, checks_invariants=True
    )
    return answers(core)


def answers(core: EngineCore) -> dict[str, tuple[list[int], list[float]]]:
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0, logprobs=0)
    for number, prompt in enumerate(PROMPTS):
        core.add(Request(str(number), prompt, sampling))
    found: dict[str, tuple[list[int], list[float]]] = {
        str(i): ([], []) for i in range(len(PROMPTS))
    }
    while core.has_work:
        for output in core.step():
            token_ids, logprobs = found[output.request_id]
            token_ids += output.token_ids
            logprobs += [one.logprob for one in output.logprobs or ()]
    return found


def trained(model: Any, params: Any, rows: list[tuple[int, ...]]) -> np.ndarray:
    """Returns log-probabilities [B, S, V] of the training forward pass over rows."""
    padded = jnp.asarray([[*row, *[0] * (32 - len(row))] for row in rows], jnp.int32)

    @jax.jit
    def logits(params: Any, ids: jax.Array) -> jax.Array:
        args = (ids, TokenInfo.contiguous(*ids.shape))
        return functional(model, params=params, args=args, is_training=False, method="logits")[0]

    return np.asarray(jax.nn.log_softmax(logits(params, padded), axis=-1))


@pytest.mark.parametrize("name", MODELS)
def test_train_vs_serve_logprob(name: str) -> None:
    cfg = finalize(MODELS[name].clone())
    model = cfg.instantiate()
    params = jax.jit(model.init)(jax.random.key(1))
    found = served(MODELS[name], params)
    rows = [(*prompt, *found[str(i)][0]) for i, prompt in enumerate(PROMPTS)]
    expected = trained(model, params, rows)
    for number, prompt in enumerate(PROMPTS):
        token_ids, logprobs = found[str(number)]
        assert len(token_ids) == len(logprobs) == MAX_TOKENS
        for at, (token, logprob) in enumerate(zip(token_ids, logprobs, strict=True)):
            row = expected[number, len(prompt) + at - 1]
            assert abs(logprob - row[token]) < TOLERANCE
            assert row[token] >= row.max() - 2 * TOLERANCE, "greedy takes the likeliest"
