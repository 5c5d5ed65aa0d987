"""A draft model changes how fast tokens come, not which, nor how they are distributed. Axes: S tokens of a row, V vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.engine.cores import parameters, prompts, requests, run, tiny_core, tokens
from tests.generation.models import KINDS, VOCAB_SIZE
from tests.sampling.sample_test import chi_square
from trellax.config import config_for_function
from trellax.inference.engine import DraftModelSpeculation, EngineCore
from trellax.inference.requests import Request, SamplingParams
from trellax.layers import TokenInfo, functional

KIND = "grouped queries"
NUM_DRAFTS = 3
SIZES: dict[str, Any] = {"max_sequences": 2, "max_tokens_per_step": 16, "max_prefill_rows": 1}
GIVEN = prompts([5, 1, 19, 40])


def make_params(kind: str, noise: float) -> Callable[[Any, Any], Any]:
    """Returns what makes the parameters of a kind, changed a little."""
    rng = np.random.default_rng(1)
    changed = lambda x: x + rng.normal(0.0, 1.0, x.shape).astype("f4") * noise
    return lambda model, shardings: jax.tree.map(changed, parameters(kind)[1])


def drafting(*, kind: str = KIND, noise: float = 0.0) -> Any:
    """Returns the config of speculation with a draft model of the kind."""
    return DraftModelSpeculation.default_config().set(
        num_tokens=NUM_DRAFTS,
        model=parameters(kind)[0].clone(),
        params=config_for_function(make_params).set(kind=kind, noise=noise),
    )


def core_with(speculation: Any, **fields: Any) -> EngineCore:
    cfg, params = parameters(KIND)
    return tiny_core(cfg, params=params, speculation=speculation, **SIZES | fields)


@functools.cache
def plain() -> EngineCore:
    """Returns an engine that takes no drafts."""
    return core_with(None)


@functools.cache
def with_its_own_drafts() -> EngineCore:
    """Returns an engine whose draft model is the model, with so few pages that long sequences are pre-empted."""
    return core_with(drafting(), cache_tokens=64)


@functools.cache
def with_drafts_like_it() -> EngineCore:
    """Returns a strict engine whose draft model says nearly what the model says."""
    return core_with(drafting(noise=0.02), max_sequences=1, warms_up=True, is_strict=True)


def accepted(core: EngineCore, wanted: list[Request], **how: Any) -> tuple[Any, float]:
    """Returns what requests get, and the accepted share of the drafts."""
    before = core.stats.num_drafts, core.stats.num_accepted_drafts
    found = tokens(run(core, wanted, **how))
    drafts = core.stats.num_drafts - before[0]
    assert drafts > 0
    return found, (core.stats.num_accepted_drafts - before[1]) / drafts


# ---- parity -------------------------------------------------------------------------------------


def test_greedy_output_is_that_of_the_model_alone_and_its_own_drafts_are_all_accepted() -> None:
    wanted = requests([*GIVEN, *prompts([18, 20], seed=2)], max_tokens=24)
    expected = tokens(run(plain(), wanted))
    core = with_its_own_drafts()
    found, share = accepted(core, wanted, arrive_every=1)
    assert found == expected
    assert core.state.num_preemptions > 0, "what was pre-empted is read again"
    assert share > 0.97
    in_a_step = core.stats.num_accepted_drafts / core.stats.num_drafted_rows
    assert 0.8 * NUM_DRAFTS < in_a_step <= NUM_DRAFTS


def test_a_draft_model_of_another_kind_changes_no_token() -> None:
    wanted = requests(GIVEN[:3])
    found, share = accepted(core_with(drafting(kind="sliding window")), wanted, arrive_every=2)
    assert found == tokens(run(plain(), wanted))
    assert share < 0.9


def test_requests_with_a_seed_get_the_tokens_that_they_get_without_drafts() -> None:
    ways: list[dict[str, Any]] = [{}, {"temperature": 0.7}, {"temperature": 0.8, "top_p": 0.8}]
    wanted = [
        Request(f"r{i}", GIVEN[i], SamplingParams(max_tokens=12, seed=i, **way))
        for i, way in enumerate(ways)
    ]
    found, share = accepted(with_drafts_like_it(), wanted, arrive_every=2)
    assert found == tokens(run(plain(), wanted))
    assert share > 0.1


# ---- distribution -------------------------------------------------------------------------------


def following(prompt_S: np.ndarray, temperature: float) -> tuple[np.ndarray, ...]:
    """Returns the distributions of the next token, of the next two and of the next three."""
    cfg, params = parameters(KIND)
    model, V = cfg.clone().instantiate(), VOCAB_SIZE
    pairs_BS = np.stack(np.meshgrid(np.arange(V), np.arange(V), indexing="ij"), -1).reshape(-1, 2)
    rows_BS = np.concatenate([np.broadcast_to(prompt_S, (V * V, len(prompt_S))), pairs_BS], axis=1)
    args = (jnp.asarray(rows_BS), TokenInfo.contiguous(*rows_BS.shape))
    logits = functional(model, params=params, args=args, is_training=False, method="logits")[0]
    probs_BSV = np.asarray(jax.nn.softmax(logits[:, -3:] / temperature, axis=-1))
    first_VVV, second_VVV, third_VVV = np.moveaxis(probs_BSV.reshape(V, V, 3, V), 2, 0)
    first_V, second_VV = first_VVV[0, 0], second_VVV[:, 0]
    both_VV = first_V[:, None] * second_VV
    return first_V, both_VV, both_VV[:, :, None] * third_VVV


def test_sampled_tokens_are_distributed_as_the_model_says() -> None:
    """A prompt draws the first token; the second is the first draft or what follows it, the third the second one or any of these."""
    params = SamplingParams(max_tokens=4, temperature=0.7)
    drawn: list[list[int]] = []
    for _ in range(3):
        wanted = [Request(f"r{i}", GIVEN[0], params) for i in range(400)]
        found, share = accepted(with_drafts_like_it(), wanted)
        assert 0.2 < share < 0.9, "some are accepted, some are not"
        drawn += found.values()
    first_V, second_VV, third_VVV = following(np.asarray(GIVEN[0]), params.temperature)
    expected = (first_V, second_VV.sum(axis=0), third_VVV.sum(axis=(0, 1)))
    for at, probs_V in enumerate(expected):
        seen_V = np.bincount([ids[at] for ids in drawn], minlength=VOCAB_SIZE)
        assert chi_square(seen_V, probs_V) < 4


# ---- comings and goings -------------------------------------------------------------------------


def test_a_slot_that_was_aborted_drafts_for_the_next_sequence() -> None:
    core = with_its_own_drafts()
    for request in requests(GIVEN[2:], max_tokens=20):
        core.add(request)
    for _ in range(5):
        core.step()
    core.abort("r0")
    core.abort("r1")
    core.step()
    wanted = requests(GIVEN[:3])
    found, share = accepted(core, wanted)
    assert share > 0.97
    assert found == tokens(run(plain(), wanted))


def test_a_shared_prefix_is_drafted_for_by_all_who_share_it() -> None:
    prefix = prompts([24], seed=9)[0]
    sharing = [prefix + tail for tail in prompts([5, 3, 4], seed=10)]
    core = with_its_own_drafts()
    run(core, requests(sharing[:1]))
    before = core.state.num_prefix_hits
    wanted = requests(sharing[1:])
    found, share = accepted(core, wanted)
    assert core.state.num_prefix_hits >= before + 24
    assert share > 0.97
    assert found == tokens(run(plain(), wanted))


def test_rows_with_penalties_or_biases_have_no_drafts() -> None:
    core = with_its_own_drafts()
    before = core.stats.num_drafts
    for params in ({"frequency_penalty": 1.0}, {"logit_bias": ((7, 2.0),)}):
        found = tokens(run(core, requests(GIVEN[:1], **params)))
        assert len(found["r0"]) == 12
    assert core.stats.num_drafts == before


def test_a_strict_engine_compiles_all_programs_of_its_draft_model_before_the_first_request() -> (
    None
):
    core = with_drafts_like_it()
    compiled = core.runner.num_compiles
    for how in ({}, {"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9, "seed": 3}):
        accepted(core, requests(prompts([5, 1, 19]), **how), arrive_every=1)
    assert core.runner.num_compiles == compiled


# ---- mistakes -----------------------------------------------------------------------------------


def test_a_draft_model_of_another_vocabulary_is_refused() -> None:
    other = KINDS[KIND]()
    other.decoder.vocab_size = 80
    speculation = drafting().set(model=other)
    with pytest.raises(ValueError, match=r"speculation.model.*80 tokens.*64"):
        core_with(speculation)
