"""Streams, byte by byte: one event a token, in the form that clients parse."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
import pytest

from tests.server.fakes import FakeEngine
from tests.server.serving import ask, events, listening
from trellax.inference.requests import FinishReason, Output, Request
from trellax.inference.server import ServerSettings

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def test_a_completion_s_bytes() -> None:
    answer = ask(COMPLETIONS, {"prompt": "h\n", "max_tokens": 2, "stream": True})
    head = json.loads(answer.text.partition("data: ")[2].partition("\n\n")[0])
    envelope = (
        f'{{"id":"{head["id"]}","object":"text_completion","created":{head["created"]},'
        f'"model":"fake/model","system_fingerprint":"{head["system_fingerprint"]}","choices":'
    )
    assert answer.text == (
        f'data: {envelope}[{{"index":0,"text":"H","logprobs":null,"finish_reason":null}}]}}\n\n'
        f'data: {envelope}[{{"index":0,"text":"H","logprobs":null,"finish_reason":"length","stop_reason":null}}]}}\n\n'
        "data: [DONE]\n\n"
    )
    assert answer.headers["cache-control"] == "no-cache"


def test_the_first_chunk_of_a_chat_has_the_role_and_only_the_last_a_reason() -> None:
    *chunks, done = events(ask(CHAT, {"messages": HELLO, "max_tokens": 3, "stream": True}))
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "U"},
        {"content": "S"},
        {"content": "E"},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "length"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1


def test_every_token_has_a_chunk_even_without_text() -> None:
    """Whoever measures the time between tokens counts chunks."""
    engine = FakeEngine()
    engine.forced = "né€"  # Tokens of a character that is not complete yet have no text.
    *chunks, _ = events(ask(COMPLETIONS, {"prompt": "a", "stream": True}, engine=engine))
    assert len(chunks) == len("né€".encode()) + 1


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_usage_comes_last_if_asked_for(path: str) -> None:
    body = {"prompt": "abc", "messages": HELLO, "max_tokens": 2, "stream": True}
    *chunks, last, done = events(ask(path, body | {"stream_options": {"include_usage": True}}))
    assert done == "[DONE]" and last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + 2
    assert all(chunk["usage"] is None for chunk in chunks)


def test_usage_comes_with_every_chunk_if_asked_for() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": "abc", "max_tokens": 3, "stream": True, "stream_options": options}
    *chunks, _ = events(ask(COMPLETIONS, body))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 3]


def test_streams_of_samples_are_what_the_whole_answer_has() -> None:
    for path in (COMPLETIONS, CHAT):
        body = {"prompt": ["ab", "c"], "messages": HELLO, "n": 3, "seed": 1, "max_tokens": 7}
        whole = ask(path, body).json()["choices"]
        texts = dict.fromkeys(range(len(whole)), "")
        reasons = {}
        for chunk in events(ask(path, body | {"stream": True}))[:-1]:
            (choice,) = chunk["choices"]
            assert choice["index"] not in reasons, "nothing follows the end"
            texts[choice["index"]] += (
                choice["text"] if "text" in choice else choice["delta"]["content"]
            )
            if choice["finish_reason"]:
                reasons[choice["index"]] = choice["finish_reason"]
        said = [c["text"] if "text" in c else c["message"]["content"] for c in whole]
        assert list(texts.values()) == said
        assert reasons == {c["index"]: c["finish_reason"] for c in whole}


def test_streamed_logprobs_continue_where_the_chunk_before_ended() -> None:
    body = {"prompt": "hi", "max_tokens": 4, "logprobs": 1, "echo": True}
    whole = ask(COMPLETIONS, body).json()["choices"][0]
    chunks = events(ask(COMPLETIONS, body | {"stream": True}))[:-1]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    for name, values in whole["logprobs"].items():
        assert [value for c in choices for value in c["logprobs"][name]] == values


def test_events_are_ascii_so_no_client_sees_a_line_end_in_them() -> None:
    engine = FakeEngine()
    body = {"prompt": "\u2028\x85\r\nx", "echo": True, "max_tokens": 1, "stream": True}
    answer = ask(COMPLETIONS, body, engine=engine)
    assert (
        answer.content.isascii()
        and answer.content.count(b"\n") == 4
        and b"\r" not in answer.content
    )
    assert events(answer)[0]["choices"][0]["text"].startswith("\u2028\x85\r\nx")


# ---- what goes wrong ----------------------------------------------------------------------------


def test_what_fails_after_the_headers_is_an_event_with_an_error_and_no_done() -> None:
    engine = FakeEngine()
    engine.failure = RuntimeError("weights at /srv/models/x/weights.bin: 0x7f0011223344")
    *chunks, last = events(ask(CHAT, {"messages": HELLO, "stream": True}, engine=engine))
    assert len(chunks) == 2
    assert set(last) == {"error"} and set(last["error"]) == {"message", "type", "param", "code"}
    assert "srv" not in json.dumps(last) and not engine.running


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("final", "status"), [("error", 500), ("abort", 503)])
def test_an_engine_s_failure_is_never_a_short_answer(
    stream: bool, final: FinishReason, status: int
) -> None:
    engine = FakeEngine()
    engine.final, engine.error = final, "NaN in /srv/a/b.py"
    answer = ask(COMPLETIONS, {"prompt": "a", "max_tokens": 1, "stream": stream}, engine=engine)
    assert answer.status_code == status
    message = answer.json()["error"]["message"]
    assert "srv" not in message and (final == "abort" or message.startswith("NaN in"))


@pytest.mark.parametrize("body", [{"max_tokens": -1}, {"prompt": "a" * 600}, {"stop": [3]}])
def test_what_is_wrong_is_refused_before_the_stream_begins(body: dict[str, Any]) -> None:
    answer = ask(COMPLETIONS, {"prompt": "a", "stream": True} | body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"


def test_a_full_queue_is_a_503_before_the_stream_begins() -> None:
    engine = FakeEngine()
    engine.queue_limit = 1
    answer = ask(COMPLETIONS, {"prompt": "a", "n": 2, "stream": True}, engine=engine)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert answer.json()["error"]["code"] == "queue_full"


class SilentEngine(FakeEngine):
    """Says nothing for a while, then one token."""

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Output, None]:
        await asyncio.sleep(0.5)
        yield Output(requests[0].id, (65,), "A", finish_reason="length")


def test_a_silent_stream_is_kept_alive_by_comments() -> None:
    with listening(SilentEngine(), ServerSettings(keep_alive_s=0.1)) as server:
        answer = httpx.post(server.url + COMPLETIONS, json={"prompt": "a", "stream": True})
    silence = answer.text[: answer.text.index("data:")]
    assert set(silence) == {"\n"} and 2 <= len(silence) <= 5
    assert re.search(r'"text":"A".*\n\ndata: \[DONE\]\n\n$', answer.text, re.S)
