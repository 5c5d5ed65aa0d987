"""Whatever the engine does (chunks, batches, pre-emption, layouts, drafts), its numbers are those of the training forward pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.engine.cores import parameters, prompts, requests, run, tiny_core, tokens
from tests.generation.models import KINDS
from trellax.config import replace_config
from trellax.inference.engine import NgramSpeculation
from trellax.layers import TokenInfo, functional
from trellax.layers.attention import ContiguousCache, SlidingCache

LOGPROB_TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}
"""Absolute difference of log-probabilities; bfloat16 relative to the same parameters and activations in bfloat16."""

GIVEN = prompts([5, 1, 3, 19, 40, 8])

FEW_SHAPES = {"max_sequences": 2, "max_tokens_per_step": 16, "max_prefill_rows": 1}
"""What these tests cost is the number of programs."""

WAYS: dict[str, dict[str, Any]] = {
    "at once": {},
    "small chunks": {"max_tokens_per_step": 9},
    "pre-empted, computed again": {"cache_tokens": 64},
    "pre-empted, swapped": {"cache_tokens": 64, "preemption": "swap", "swap_tokens": 400},
    "contiguous": {"cache": "contiguous"},
    "scanned": {"unrolls": False},
    "deterministic": {"is_deterministic": True},
    "drafts": {"speculation": NgramSpeculation.default_config().set(num_tokens=3, min_ngram=1)},
    "prepared weights": {"weights": "float32"},
}


def forward_logprobs(kind: str, rows: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns log-softmax of the logits of the training forward pass over whole rows, [S, V] each."""
    cfg, params = parameters(kind)
    model = cfg.clone().instantiate()
    longest = max(map(len, rows.values()))
    ids = jnp.asarray([[*row, *[0] * (longest - len(row))] for row in rows.values()], jnp.int32)

    @jax.jit
    def logits(params: Any, ids: jax.Array) -> jax.Array:
        args = (ids, TokenInfo.contiguous(*ids.shape))
        return functional(model, params=params, args=args, is_training=False, method="logits")[0]

    found = np.asarray(jax.nn.log_softmax(logits(params, ids), axis=-1))
    return {name: found[i, : len(row)] for i, (name, row) in enumerate(rows.items())}


def check_same(kind: str, core: Any, *, arrive_every: int = 2, tolerance: float = 1e-5) -> None:
    """Runs greedy requests with log-probabilities, of prompts too, and compares all with the forward pass."""
    wanted = requests(GIVEN, logprobs=2, prompt_logprobs=0)
    pieces = run(core, wanted, arrive_every=arrive_every)
    rows = {r.id: r.prompt_ids + tuple(tokens(pieces)[r.id]) for r in wanted}
    expected = forward_logprobs(kind, rows)
    for request in wanted:
        logprobs_SV, row = expected[request.id], rows[request.id]
        known = [x for o in pieces[request.id] for x in o.logprobs or ()]
        first = len(request.prompt_ids)
        assert len(known) == len(row) - first == 12
        for at, found in enumerate(known, start=first):
            want_V = logprobs_SV[at - 1]
            assert abs(found.logprob - want_V[row[at]]) < tolerance
            assert found.logprob >= want_V.max() - 2 * tolerance, "greedy takes the likeliest"
            assert len(found.top) == 2 and abs(found.top[0][1] - want_V.max()) < tolerance
        told = pieces[request.id][0].prompt_logprobs
        assert told is not None and told[0] is None and len(told) == first
        for at, scored in enumerate(told[1:], start=1):
            assert scored is not None
            assert abs(scored.logprob - logprobs_SV[at - 1, row[at]]) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_serves_what_it_was_trained_to_say(kind: str) -> None:
    check_same(kind, tiny_core(parameters(kind)[0], **FEW_SHAPES))


@pytest.mark.parametrize("way", WAYS)
def test_however_steps_are_made_the_numbers_are_the_same(way: str) -> None:
    cfg, params = parameters("grouped queries")
    core = tiny_core(cfg, params=params, **FEW_SHAPES | WAYS[way])
    check_same("grouped queries", core, arrive_every=1)
    if way.startswith("pre-empted"):
        assert core.state.num_preemptions > 0
    if way == "drafts":
        assert core.stats.num_accepted_drafts > 0


def test_a_ring_serves_a_sliding_window() -> None:
    cfg, params = parameters("sliding window")
    ringed = cfg.clone()
    replace_config(ringed, ContiguousCache, SlidingCache.default_config().set(window=4))
    core = tiny_core(ringed, params=params, **FEW_SHAPES)
    assert not core.state.limits.share_prefixes, "a ring cannot be shared"
    check_same("sliding window", core)


def test_train_vs_serve_logprob_in_bfloat16() -> None:
    """Both in bfloat16, so that what is compared is how they compute and not what they round."""
    cfg, params = parameters("rotary")
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    wanted = requests(GIVEN, logprobs=0)
    pieces = run(tiny_core(cfg, params=rounded, dtype="bfloat16", **FEW_SHAPES), wanted)
    model = cfg.clone().instantiate()
    for request in wanted:
        row = request.prompt_ids + tuple(tokens(pieces)[request.id])
        ids = jnp.asarray([row], jnp.int32)
        args = (ids, TokenInfo.contiguous(*ids.shape))
        logits = functional(model, params=rounded, args=args, is_training=False, method="logits")[0]
        want = np.asarray(jax.nn.log_softmax(logits[0].astype(jnp.float32), axis=-1))
        known = [x for o in pieces[request.id] for x in o.logprobs or ()]
        for at, found in enumerate(known, start=len(request.prompt_ids)):
            assert abs(found.logprob - want[at - 1, row[at]]) < LOGPROB_TOLERANCE["bfloat16"]


@pytest.mark.parametrize("cache_dtype", ["int8", "float8_e4m3fn"])
def test_eight_bit_caches_say_nearly_the_same(cache_dtype: str) -> None:
    cfg, params = parameters("rotary")
    wanted = requests(GIVEN, logprobs=0, max_tokens=4)
    pieces = run(tiny_core(cfg, params=params, cache_dtype=cache_dtype, **FEW_SHAPES), wanted)
    rows = {r.id: r.prompt_ids + tuple(tokens(pieces)[r.id]) for r in wanted}
    expected = forward_logprobs("rotary", rows)
    errors = [
        abs(found.logprob - expected[r.id][at - 1, rows[r.id][at]])
        for r in wanted
        for at, found in enumerate(
            [x for o in pieces[r.id] for x in o.logprobs or ()], start=len(r.prompt_ids)
        )
    ]
    assert 1e-6 < float(np.mean(errors)) < (0.03 if cache_dtype == "int8" else 0.15)


def test_a_deterministic_engine_gives_the_same_bits_whatever_else_runs() -> None:
    cfg, params = parameters("grouped queries")
    found = []
    for others in (0, 5):
        core = tiny_core(
            cfg, params=params, is_deterministic=True, preemption="swap", swap_tokens=400
        )
        wanted = requests(GIVEN[3:4] + prompts([7, 20, 3, 11, 30], seed=5)[:others], logprobs=2)
        pieces = run(core, wanted, arrive_every=1)
        found.append([x for o in pieces["r0"] for x in o.logprobs or ()])
    assert found[0] == found[1]
