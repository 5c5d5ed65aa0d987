"""What ends a request, what is told of it, and that requests do not see each other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.cores import parameters, prompts, requests, run, tiny_core, tokens
from trellax.inference.engine import EngineCore
from trellax.inference.requests import Request, RequestError, SamplingParams

PROMPT = prompts([9])[0]


@pytest.fixture(scope="module", name="core")
def one_core() -> EngineCore:
    cfg, params = parameters("grouped queries")
    return tiny_core(cfg, params=params)


def greedy(core: EngineCore, **params: Any) -> list[int]:
    return tokens(run(core, requests([PROMPT], **params)))["r0"]


# ---- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_max_tokens_is_exact(core: EngineCore, max_tokens: int) -> None:
    pieces = run(core, requests([PROMPT], max_tokens=max_tokens))["r0"]
    assert sum(len(o.token_ids) for o in pieces) == max_tokens
    assert [o.finish_reason for o in pieces] == [None] * (max_tokens - 1) + ["length"]


def test_an_end_token_that_is_drawn_first_ends_the_request(core: EngineCore) -> None:
    first = greedy(core)[0]
    (piece,) = run(core, requests([PROMPT], stop_token_ids=(first,)))["r0"]
    assert (piece.token_ids, piece.finish_reason, piece.stop_reason) == ((first,), "stop", first)


def test_the_models_end_token_ends_a_request_unless_it_is_ignored() -> None:
    cfg, params = parameters("grouped queries")
    plain = greedy(tiny_core(cfg, params=params))
    end = plain[4]
    ending = tiny_core(cfg, params=params)
    ending._eos_ids = frozenset({end})
    upto = plain[: plain.index(end) + 1]
    assert greedy(ending) == upto
    assert greedy(ending, ignore_eos=True) == plain
    longer = greedy(ending, min_tokens=8)
    assert end not in longer[:8] and len(longer) >= 8


def test_a_request_that_cannot_fit_is_refused(core: EngineCore) -> None:
    with pytest.raises(RequestError, match="at most 64"):
        core.add(Request("long", PROMPT, SamplingParams(max_tokens=60)))
    assert not core.has_work


# ---- draws --------------------------------------------------------------------------------------


def test_samples_of_one_prompt_are_independent_and_each_is_its_seeds(core: EngineCore) -> None:
    drawn = [
        Request(f"r{i}", PROMPT, SamplingParams(max_tokens=12, seed=i, temperature=1.5))
        for i in range(6)
    ]
    together = tokens(run(core, drawn))
    assert len({tuple(t) for t in together.values()}) == 6
    for request in drawn[2:4]:
        assert tokens(run(core, [request]))[request.id] == together[request.id]


def test_requests_in_a_batch_follow_each_its_own_parameters(core: EngineCore) -> None:
    given = prompts([4, 9, 13])
    ways: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": 3, "top_k": 5},
        {"temperature": 0.9, "seed": 4, "top_p": 0.5, "repetition_penalty": 1.3},
    ]
    mixed = [
        Request(f"r{i}", p, SamplingParams(max_tokens=10, **w))
        for i, (p, w) in enumerate(zip(given, ways, strict=True))
    ]
    together = tokens(run(core, mixed))
    for request in mixed:
        assert tokens(run(core, [request]))[request.id] == together[request.id]


def test_penalties_and_biases_change_what_is_drawn(core: EngineCore) -> None:
    plain = greedy(core, max_tokens=30)
    assert len(set(plain)) < 30, "the model repeats itself"
    assert len(set(greedy(core, max_tokens=30, frequency_penalty=2.0, presence_penalty=2.0))) > len(
        set(plain)
    )
    assert set(greedy(core, logit_bias=((7, 100.0),))) == {7}
    assert plain[0] not in greedy(core, logit_bias=((plain[0], -100.0),))


def test_penalties_survive_pre_emption() -> None:
    cfg, params = parameters("grouped queries")
    wanted = requests(prompts([6, 7, 8, 9]), max_tokens=24, frequency_penalty=1.5, temperature=0.0)
    roomy = tokens(run(tiny_core(cfg, params=params), wanted))
    core = tiny_core(cfg, params=params, cache_tokens=64)
    assert tokens(run(core, wanted)) == roomy
    assert core.state.num_preemptions > 0


# ---- comings and goings -------------------------------------------------------------------------


def test_an_abort_frees_everything_within_a_step(core: EngineCore) -> None:
    for request in requests(prompts([20, 30]), max_tokens=30):
        core.add(request)
    for _ in range(4):
        core.step()
    core.abort("r0")
    assert not any(s.id == "r0" for s in core.state.running)
    ended = {o.request_id: o.finish_reason for o in core.step() if o.finish_reason}
    assert ended == {"r0": "abort"}
    core.abort("r0")
    core.abort("nobody")
    core.abort("r1")
    while core.has_work:
        core.step()
    assert len(core.state.free_slots) == 4
    assert core.state.pages.num_available == core.state.limits.num_pages - 1


def test_a_shared_prefix_is_computed_once(core: EngineCore) -> None:
    prefix = prompts([24], seed=9)[0]
    first, second = (prefix + tail for tail in prompts([5, 5], seed=10))
    cold = tokens(run(core, requests([second])))
    core.state.forget_prefixes()
    run(core, requests([first]))
    pieces = run(core, requests([second]))
    assert pieces["r0"][0].num_cached_tokens == 24
    assert tokens(pieces) == cold


def test_another_salt_shares_nothing(core: EngineCore) -> None:
    prompt = prompts([24], seed=11)[0]
    run(core, requests([prompt]))
    salted = Request("s", prompt, SamplingParams(max_tokens=2), cache_salt="another tenant")
    assert run(core, [salted])["s"][0].num_cached_tokens == 0


# ---- programs -----------------------------------------------------------------------------------


def strict_core() -> EngineCore:
    """Returns an engine with so few pages that two sequences do not fit at once."""
    cfg, params = parameters("rotary")
    few = {"max_sequences": 2, "max_tokens_per_step": 16, "max_length": 32, "cache_tokens": 36}
    swaps = {"preemption": "swap", "swap_tokens": 100}
    return tiny_core(cfg, params=params, warms_up=True, is_strict=True, **few | swaps)


def test_a_strict_engine_has_compiled_all_that_can_be_asked_for() -> None:
    core = strict_core()
    compiled = core.runner.num_compiles
    ways: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 1},
        {"temperature": 1.0, "top_p": 0.9},
        {"logprobs": 0},
        {"logprobs": 3, "prompt_logprobs": 0},
        {"prompt_logprobs": 2, "temperature": 1.0, "logprobs": 2},
        {"logit_bias": ((3, 5.0),), "min_tokens": 2},
        {"frequency_penalty": 0.5, "repetition_penalty": 1.1, "top_k": 5, "temperature": 1.0},
    ]
    for way in ways:
        run(core, requests(prompts([9, 9, 5, 12]), max_tokens=16, **way), arrive_every=1)
    assert core.state.num_preemptions > 0 and core.runner.num_compiles == compiled
    with pytest.raises(RuntimeError, match="warm-up did not compile"):
        core.runner.programs.compiled(("another",), lambda x: x, (1.0,))


def test_a_step_that_fails_ends_all_requests_and_holds_nothing(core: EngineCore) -> None:
    core.add(requests([PROMPT])[0])
    core.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.runner, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            core.step()
    ended = core.fail_all("the engine has failed")
    assert [(o.finish_reason, o.error) for o in ended] == [("error", "the engine has failed")]
    assert not core.has_work and not core.state.running
    core.state.check_invariants()
    assert len(greedy(core)) == 12, "and others may come"
