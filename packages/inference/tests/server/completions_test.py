"""`/v1/completions`: what is asked for reaches the engine, and what it says reaches the client."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.fakes import BOS, EOS, FakeEngine
from tests.server.serving import ask, events
from trellax.inference.requests import Constraint, SamplingParams

URL = "/v1/completions"


def seen(body: dict[str, Any]) -> SamplingParams:
    """Returns the parameters that a body becomes."""
    engine = FakeEngine()
    answer = ask(URL, {"prompt": "hi"} | body, engine=engine)
    assert answer.status_code == 200, answer.text
    return engine.seen[0].params


# ---- fields -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "params"),
    [
        ({}, {"max_tokens": 16, "temperature": 1.0, "top_k": 0, "seed": None, "logprobs": None}),
        ({"max_tokens": 3.0}, {"max_tokens": 3}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": None, "top_k": None}, {"temperature": 1.0, "top_k": 0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 7, "top_p": 0.5, "min_p": 0.1}, {"top_k": 7, "top_p": 0.5, "min_p": 0.1}),
        (
            {"presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5},
            {"presence_penalty": 1.0, "frequency_penalty": -1.0, "repetition_penalty": 1.5},
        ),
        ({"logit_bias": {"5": 2, "65": -100}}, {"logit_bias": ((5, 2.0), (65, -100.0))}),
        ({"seed": 11}, {"seed": 11}),
        ({"stop": "END"}, {"stop": ("END",)}),
        (
            {"stop": ["a b", "c"], "stop_token_ids": [9]},
            {"stop": ("a b", "c"), "stop_token_ids": (9,)},
        ),
        ({"ignore_eos": True, "min_tokens": 2}, {"ignore_eos": True, "min_tokens": 2}),
        ({"include_stop_str_in_output": True}, {"include_stop": True}),
        ({"skip_special_tokens": False}, {"skip_special_tokens": False}),
        ({"logprobs": 3}, {"logprobs": 3, "prompt_logprobs": None}),
        ({"logprobs": 3, "echo": True}, {"logprobs": 3, "prompt_logprobs": 3}),
        ({"prompt_logprobs": 1}, {"logprobs": None, "prompt_logprobs": 1}),
        ({"response_format": {"type": "text"}}, {"constraint": None}),
        ({"response_format": {"type": "json_object"}}, {"constraint": Constraint("json_object")}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "null"}},
                }
            },
            {"constraint": Constraint("json_schema", '{"type": "null"}')},
        ),
        ({"guided_json": {"a": 1}}, {"constraint": Constraint("json_schema", '{"a": 1}')}),
        ({"guided_json": '{"a": 1}'}, {"constraint": Constraint("json_schema", '{"a": 1}')}),
        ({"guided_regex": "a+"}, {"constraint": Constraint("regex", "a+")}),
        ({"guided_choice": ["x", "y"]}, {"constraint": Constraint("choice", '["x", "y"]')}),
        ({"guided_grammar": "start: X"}, {"constraint": Constraint("grammar", "start: X")}),
        ({"structured_outputs": {"regex": "b"}}, {"constraint": Constraint("regex", "b")}),
        ({"structured_outputs": {"json_object": True}}, {"constraint": Constraint("json_object")}),
    ],
)
def test_fields_become_sampling_parameters(body: dict[str, Any], params: dict[str, Any]) -> None:
    found = seen(body)
    assert {name: getattr(found, name) for name in params} == params


def test_priority_and_salt_reach_the_engine() -> None:
    engine = FakeEngine()
    ask(URL, {"prompt": "hi", "priority": -3, "cache_salt": "mine"}, engine=engine)
    assert (engine.seen[0].priority, engine.seen[0].cache_salt) == (-3, "mine")


def test_unknown_fields_are_ignored() -> None:
    assert ask(URL, {"prompt": "hi", "no_such": {"a": [1]}, "user": "me"}).status_code == 200


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("hi", [(BOS, 104, 105)]),
        (["hi", "h"], [(BOS, 104, 105), (BOS, 104)]),
        ([1, 2], [(1, 2)]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
    ],
)
def test_prompts_are_texts_or_tokens_one_or_several(
    prompt: Any, ids: list[tuple[int, ...]]
) -> None:
    engine = FakeEngine()
    answer = ask(URL, {"prompt": prompt, "max_tokens": 2}, engine=engine).json()
    assert [request.prompt_ids for request in engine.seen] == ids
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(ids)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))


def test_special_tokens_can_be_left_out() -> None:
    engine = FakeEngine()
    ask(URL, {"prompt": "hi", "add_special_tokens": False}, engine=engine)
    assert engine.seen[0].prompt_ids == (104, 105)


def test_the_default_length_shrinks_to_what_there_is_room_for() -> None:
    engine = FakeEngine(max_length=10)
    answer = ask(URL, {"prompt": [65] * 7}, engine=engine).json()
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


# ---- answers ------------------------------------------------------------------------------------


def test_an_answer_has_what_clients_read() -> None:
    answer = ask(URL, {"prompt": "hi", "max_tokens": 3, "model": "fake/model"}).json()
    assert answer["id"].startswith("cmpl-") and answer["object"] == "text_completion"
    assert answer["model"] == "fake/model" and answer["created"] > 1_700_000_000
    assert answer["system_fingerprint"].startswith("fp_")
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "text": "HIH",
        "logprobs": None,
        "finish_reason": "length",
        "stop_reason": None,
    }


def test_samples_are_drawn_by_seeds_of_their_own() -> None:
    engine = FakeEngine()
    body = {"prompt": ["ab", "cd"], "n": 3, "seed": 5, "max_tokens": 8}
    texts = [c["text"] for c in ask(URL, body, engine=engine).json()["choices"]]
    assert [r.params.seed for r in engine.seen] == [5, 6, 7] * 2
    assert texts == [engine.text_of([], seed=s, length=8) for s in [5, 6, 7] * 2]
    assert len(set(texts)) == 3


def test_seeds_wrap_within_64_bits() -> None:
    engine = FakeEngine()
    ask(URL, {"prompt": "a", "n": 2, "seed": 2**63 - 1}, engine=engine)
    assert [r.params.seed for r in engine.seen] == [2**63 - 1, -(2**63)]


def test_request_ids_are_unique_whatever_clients_call_them() -> None:
    engine = FakeEngine()
    body = {"prompt": ["a", "b"], "n": 2, "request_id": "mine"}
    answers = [ask(URL, body, engine=engine).json() for _ in range(2)]
    assert {answer["id"] for answer in answers} == {"cmpl-mine"}
    assert len({request.id for request in engine.seen}) == 8


def test_a_stop_text_ends_the_text_and_is_named() -> None:
    choice = ask(URL, {"prompt": "hello", "stop": ["LO"]}).json()["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "LO")


def test_an_end_token_ends_the_text_and_is_named() -> None:
    engine = FakeEngine()
    engine.forced = "Yes."
    choice = ask(URL, {"prompt": "hello"}, engine=engine).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("Yes.", "stop", EOS)


def test_a_prompt_counts_once_for_all_its_samples() -> None:
    usage = ask(URL, {"prompt": ["abc", "d"], "n": 4, "max_tokens": 2}).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (6, 16)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 4


def test_token_ids_come_along_if_asked_for() -> None:
    choice = ask(URL, {"prompt": "h", "max_tokens": 2, "return_token_ids": True}).json()["choices"][
        0
    ]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([BOS, 104], [72, 72])


# ---- log-probabilities --------------------------------------------------------------------------


def test_logprobs_are_parallel_lists() -> None:
    body = {"prompt": "hi", "max_tokens": 3, "logprobs": 2}
    logprobs = ask(URL, body).json()["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["H", "I", "H"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"H": -0.5, "I": -1.5}, {"I": -0.5, "J": -1.5}, {"H": -0.5, "I": -1.5}],
        "text_offset": [0, 1, 2],
    }


def test_echo_puts_the_prompt_first_with_logprobs_of_all_but_its_first_token() -> None:
    body = {"prompt": "hi", "max_tokens": 1, "logprobs": 0, "echo": True}
    choice = ask(URL, body).json()["choices"][0]
    assert choice["text"] == "hiH"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["<s>", "h", "i", "H"]
    assert logprobs["token_logprobs"] == [None, -0.5, -0.5, -0.5]
    assert logprobs["top_logprobs"] == [None, {"h": -0.5}, {"i": -0.5}, {"H": -0.5}]
    assert logprobs["text_offset"] == [0, 0, 1, 2]


def test_a_scoring_harness_finds_the_continuation_s_logprobs() -> None:
    """As lm-eval reads them: token-id prompts, echo, one token that is dropped."""
    body = {
        "prompt": [[65, 66, 67, 68]],
        "max_tokens": 1,
        "logprobs": 1,
        "echo": True,
        "temperature": 0,
    }
    choice = ask(URL, body).json()["choices"][0]
    values = choice["logprobs"]["token_logprobs"][2:-1]
    tops = choice["logprobs"]["top_logprobs"][2:-1]
    assert len(values) == 2
    assert all(value == max(top.values()) for value, top in zip(values, tops, strict=True))


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_and_echo_only_scores(stream: bool) -> None:
    engine = FakeEngine()
    body = {"prompt": [65, 66], "max_tokens": 0, "logprobs": 1, "echo": True, "stream": stream}
    answer = ask(URL, body | {"stream_options": {"include_usage": True}}, engine=engine)
    if stream:
        *chunks, last, done = events(answer)
        assert done == "[DONE]" and len(chunks) == 1
        choice, usage = chunks[0]["choices"][0], last["usage"]
    else:
        choice, usage = answer.json()["choices"][0], answer.json()["usage"]
    assert (choice["text"], choice["finish_reason"]) == ("AB", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (2, 0)
    assert engine.seen[0].params.max_tokens == 1


def test_tokens_that_are_no_text_are_shown_as_bytes() -> None:
    body = {"prompt": list("é".encode()), "max_tokens": 0, "logprobs": 0, "echo": True}
    choice = ask(URL, body).json()["choices"][0]
    assert choice["text"] == "é"
    assert choice["logprobs"]["tokens"] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert choice["logprobs"]["text_offset"] == [0, 0]


def test_prompt_logprobs_are_by_token_id() -> None:
    body = {"prompt": [65, 66], "max_tokens": 1, "prompt_logprobs": 2}
    choice = ask(URL, body).json()["choices"][0]
    assert choice["prompt_logprobs"] == [
        None,
        {
            "66": {"logprob": -0.5, "rank": 1, "decoded_token": "B"},
            "67": {"logprob": -1.5, "rank": 2, "decoded_token": "C"},
        },
    ]
