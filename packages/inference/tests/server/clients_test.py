"""The `openai` client against a server that listens, unpatched: every parameter, streams, errors, cancelling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.server.fakes import FakeEngine
from tests.server.serving import Listening, eventually, listening
from trellax.inference.server import ServerSettings

MODEL = "fake/model"
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOL: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def server(engine: FakeEngine) -> Iterator[Listening]:
    with listening(engine, ServerSettings(api_keys=("secret",))) as server:
        yield server


@pytest.fixture
def client(server: Listening) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client:
        yield client


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


ALL_OF_COMPLETIONS: dict[str, Any] = {
    "model": MODEL,
    "prompt": ["hello", "you"],
    "best_of": 2,
    "echo": True,
    "frequency_penalty": 0.1,
    "logit_bias": {"65": 1},
    "logprobs": 2,
    "max_tokens": 5,
    "n": 2,
    "presence_penalty": 0.1,
    "seed": 3,
    "stop": ["zz"],
    "temperature": 0.5,
    "top_p": 0.9,
    "user": "me",
    "extra_body": {
        "top_k": 5,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "ignore_eos": True,
        "min_tokens": 1,
        "stop_token_ids": [9],
        "priority": 1,
        "request_id": "mine",
        "return_token_ids": True,
    },
}
ALL_OF_CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": HELLO,
    "frequency_penalty": 0.1,
    "logit_bias": {"65": 1},
    "logprobs": True,
    "top_logprobs": 2,
    "max_completion_tokens": 5,
    "max_tokens": 9,
    "n": 2,
    "presence_penalty": 0.1,
    "response_format": {"type": "json_object"},
    "seed": 3,
    "stop": "zz",
    "temperature": 0.5,
    "top_p": 0.9,
    "tools": [TOOL],
    "tool_choice": "auto",
    "user": "me",
    "extra_body": {"top_k": 5, "chat_template_kwargs": {"a": 1}, "ignore_eos": True},
}


def test_completions_take_every_parameter(client: openai.OpenAI, engine: FakeEngine) -> None:
    answer = client.completions.create(**ALL_OF_COMPLETIONS)
    assert answer.id == "cmpl-mine" and len(answer.choices) == 4
    text = engine.text_of([], seed=4, length=5)
    assert answer.choices[1].text == "hello" + text
    logprobs = answer.choices[1].logprobs
    assert logprobs is not None and logprobs.tokens is not None
    assert "".join(logprobs.tokens[-5:]) == text
    params = engine.seen[-1].params
    assert (params.top_k, params.min_p, params.ignore_eos) == (5, 0.01, True)


def test_streamed_completions_take_every_parameter(client: openai.OpenAI) -> None:
    whole = client.completions.create(**ALL_OF_COMPLETIONS)
    texts = {choice.index: "" for choice in whole.choices}
    usage = None
    streamed: Any = STREAM | ALL_OF_COMPLETIONS
    for chunk in client.completions.create(**streamed):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
        usage = chunk.usage or usage
    assert list(texts.values()) == [choice.text for choice in whole.choices]
    assert usage == whole.usage


def test_chats_take_every_parameter(client: openai.OpenAI, engine: FakeEngine) -> None:
    answer = client.chat.completions.create(**ALL_OF_CHAT)
    texts = [engine.text_of([], seed=seed, length=5) for seed in (3, 4)]
    assert [choice.message.content for choice in answer.choices] == texts
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [len(entry.top_logprobs) for entry in logprobs.content] == [2] * 5
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


def test_streamed_chats_take_every_parameter(client: openai.OpenAI, engine: FakeEngine) -> None:
    texts = {0: "", 1: ""}
    streamed: Any = STREAM | ALL_OF_CHAT
    for chunk in client.chat.completions.create(**streamed):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert list(texts.values()) == [engine.text_of([], seed=seed, length=5) for seed in (3, 4)]


def test_the_client_s_own_assembly_of_a_stream_gives_the_whole_answer(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.forced = "Hi there."
    try:
        with client.chat.completions.stream(model=MODEL, messages=HELLO) as stream:
            choice = stream.get_final_completion().choices[0]
    finally:
        engine.forced = None
    assert (choice.message.content, choice.finish_reason) == ("Hi there.", "stop")


def test_a_demanded_call_comes_as_the_client_reads_it(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.forced = '{"name": "add", "arguments": {"a": 1}}'
    try:
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, tools=[TOOL], tool_choice="required"
        )
        with client.chat.completions.stream(
            model=MODEL, messages=HELLO, tools=[TOOL], tool_choice="required"
        ) as stream:
            streamed = stream.get_final_completion()
    finally:
        engine.forced = None
    for choice in (answer.choices[0], streamed.choices[0]):
        assert choice.finish_reason == "tool_calls" and choice.message.tool_calls
        function = choice.message.tool_calls[0].function  # type: ignore[union-attr]
        assert (function.name, function.arguments) == ("add", '{"a": 1}')


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (openai.BadRequestError, {"temperature": -1}),
        (openai.NotFoundError, {"model": "other"}),
    ],
)
def test_refusals_are_the_client_s_own_exceptions(
    client: openai.OpenAI, error: type[openai.APIStatusError], fields: dict[str, Any]
) -> None:
    with pytest.raises(error) as raised:
        client.completions.create(**{"model": MODEL, "prompt": "a", **fields})
    assert raised.value.param == next(iter(fields))


def test_a_wrong_key_is_an_authentication_error(server: Listening) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_a_full_server_is_asked_again_by_the_client(server: Listening, engine: FakeEngine) -> None:
    engine.queue_limit = 0
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as raised:
            client.completions.create(model=MODEL, prompt="a")
        engine.queue_limit = 10_000
    assert raised.value.response.headers["retry-after"] == "3"


def test_an_error_within_a_stream_is_raised(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.failure = RuntimeError("broken")
    try:
        with pytest.raises(openai.APIError, match="failed on this request"):
            list(client.completions.create(model=MODEL, prompt="a", stream=True))
    finally:
        engine.failure = None
    assert not engine.running


def test_a_stream_that_is_closed_aborts_its_request(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.step_s = 0.02
    try:
        stream = client.completions.create(model=MODEL, prompt="a", max_tokens=400, stream=True)
        next(iter(stream))
        assert len(engine.running) == 1
        (request_id,) = engine.running
        stream.close()
        assert eventually(lambda: not engine.running, within_s=1.0)
    finally:
        engine.step_s = 0.0
    assert engine.aborted[-1] == request_id


def test_embeddings_of_a_model_without_them_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="gives no embeddings"):
        client.embeddings.create(model=MODEL, input="a")
