"""Whatever a client sends, it is told what is wrong, in OpenAI's shape, and the server goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.fakes import FakeEngine
from tests.server.serving import ask
from trellax.inference.server import Limits, ServerSettings, create_app

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
POSTS = (COMPLETIONS, CHAT, "/v1/embeddings", "/tokenize", "/detokenize")
USER = {"role": "user", "content": "a"}


def error_of(answer: Any, status: int) -> dict[str, Any]:
    """Returns the error of an answer, after a look at its shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and "Traceback" not in answer.text
    return body["error"]


# ---- what is no JSON ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value at line 1, column 1"),
        (b"{", "Expecting property name"),
        (b'{"prompt": "a",}', "line 1, column 16"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b'{"prompt": "\xe9"}', "byte 12 is not UTF-8"),
        (b"\x00", "Expecting value"),
        (b"\xef\xbb\xbf{}", "Expecting value"),
        (b'{"prompt": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN is not JSON"),
        (b'{"prompt": "a", "temperature": -Infinity}', "-Infinity is not JSON"),
        (b'{"prompt": "a", "temperature": 1e999}', "a number is too large"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "a number is too large"),
        (b'{"prompt": "a", "prompt": "b"}', "the same key twice"),
        (b'{"prompt": "a", "x": ' + b"[" * 65 + b"]" * 65 + b"}", "nested too deeply; at most 64"),
        (b'{"prompt": "a", "x": ' + b'{"a":' * 70 + b"1" + b"}" * 71, "nested too deeply"),
        (b"[" * 1_000_000, "nested too deeply"),
    ],
)
def test_a_body_that_is_not_json_is_refused(content: bytes, message: str) -> None:
    error = error_of(ask(COMPLETIONS, content=content), 400)
    assert message in error["message"] and error["code"] == "invalid_json"


def test_lists_side_by_side_are_not_nested() -> None:
    body = {"prompt": "a", "x": [[[1]] * 30] * 30}
    assert ask(COMPLETIONS, body).status_code == 200


@pytest.mark.parametrize("content", [b"null", b"3", b"[]", b'"x"', b"true"])
@pytest.mark.parametrize("path", POSTS)
def test_a_body_that_is_no_object_is_refused(path: str, content: bytes) -> None:
    assert "it must be an object" in error_of(ask(path, content=content), 400)["message"]


# ---- wrong values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": None}, "prompt", "prompt is missing."),
        ({"prompt": []}, "prompt", "must be a text"),
        ({"prompt": [[]]}, "prompt", "at least one token"),
        ({"prompt": ["a", 1]}, "prompt", "token ids"),
        ({"prompt": [1, "a"]}, "prompt", "token ids"),
        ({"prompt": [-1]}, "prompt", "from 0 to 257, not -1"),
        ({"prompt": [258]}, "prompt", "from 0 to 257, not 258"),
        ({"prompt": [1, True]}, "prompt", "token ids"),
        ({"prompt": [10**30]}, "prompt", "from 0 to 257"),
        ({"prompt": {"a": 1}}, "prompt", "must be a text"),
        ({"prompt": "a" * 600}, "prompt", "at most 511 tokens; it has 601"),
        ({"prompt": ["a"] * 300}, "prompt", "at most 256 prompts"),
        (
            {"max_tokens": 512},
            "max_tokens",
            "2 tokens and max_tokens asks for 512 more; the model holds 512",
        ),
        ({"max_tokens": -1}, "max_tokens", "it must be a whole number of at least 0"),
        ({"max_tokens": 1.5}, "max_tokens", "it must be a whole number"),
        ({"max_tokens": "9"}, "max_tokens", "max_tokens is '9'; it must be a whole number"),
        ({"max_tokens": True}, "max_tokens", "max_tokens is true"),
        ({"max_tokens": 10**40}, "max_tokens", "it must be a whole number"),
        ({"max_tokens": 0}, "max_tokens", "without echo it must be at least 1"),
        ({"temperature": -0.1}, "temperature", "at least 0"),
        ({"temperature": 10**400}, "temperature", "number"),
        ({"temperature": "hot"}, "temperature", "temperature is 'hot'; it must be a number"),
        ({"top_p": 0}, "top_p", "above 0 and of at most 1"),
        ({"top_k": -2}, "top_k", "at least -1"),
        ({"min_p": 2}, "min_p", "at most 1"),
        ({"presence_penalty": 3}, "presence_penalty", "at most 2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "above 0"),
        ({"n": 0}, "n", "at least 1"),
        ({"n": 129}, "n", "at most 128"),
        ({"prompt": ["a"] * 200, "n": 3}, "n", "600 choices; at most 512"),
        ({"best_of": 2}, "best_of", "best_of is 2; only n itself"),
        ({"suffix": "x"}, "suffix", "suffix is not offered"),
        ({"use_beam_search": True}, "use_beam_search", "not offered"),
        ({"stop": ""}, "stop", "none of them empty"),
        ({"stop": ["a", ""]}, "stop[1]", "at least 1 characters"),
        ({"stop": ["a"] * 17}, "stop", "it may have at most 16"),
        ({"stop": 3}, "stop", "a string or a list of strings"),
        ({"stop_token_ids": [258]}, "stop_token_ids", "names token 258"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "logit_bias has the key 'x'"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "has the key '-1'"),
        ({"logit_bias": {"1\n": 1}}, "logit_bias", "has the key"),
        ({"logit_bias": {"٣": 1}}, "logit_bias", "has the key"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "at most 100"),
        ({"logit_bias": {"258": 1}}, "logit_bias", "names token 258"),
        (
            {"logit_bias": {str(i): 1 for i in range(1025)}},
            "logit_bias",
            "1025 entries; at most 1024",
        ),
        ({"logit_bias": [1]}, "logit_bias", "an object"),
        ({"logprobs": 21}, "logprobs", "at most 20"),
        ({"logprobs": True}, "logprobs", "logprobs is true"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "leave out stream"),
        ({"min_tokens": 20}, "min_tokens", "from 0 to max_tokens"),
        ({"seed": 2**63}, "seed", "it must be a whole number"),
        ({"seed": "x"}, "seed", "it must be a whole number"),
        ({"stream": "yes"}, "stream", "it must be true or false"),
        ({"stream_options": []}, "stream_options", "an object"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "true or false"),
        ({"response_format": {"type": "xml"}}, "response_format.type", '"json_schema"'),
        ({"response_format": {}}, "response_format.type", "is missing"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is missing"),
        ({"guided_json": "not json"}, "guided_json", "holds no JSON schema"),
        ({"guided_json": 3}, "guided_json", "a JSON schema"),
        ({"guided_choice": []}, "guided_choice", "at least 1"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "give one"),
        ({"structured_outputs": {}}, "structured_outputs", "has none of json, regex"),
        ({"request_id": "x" * 129}, "request_id", "at most 128"),
        ({"priority": 2**31}, "priority", "at most 2147483647"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str, message: str) -> None:
    error = error_of(ask(COMPLETIONS, {"prompt": "a"} | fields), 400)
    assert message in error["message"]
    assert error["param"] == param and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user", "content": 3}]}, "messages[1].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        ({"messages": [USER] * 2049}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 600}, "max_completion_tokens"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"chat_template": "{{ 7 * 7 }}"}, "chat_template"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ],
)
def test_a_wrong_field_of_a_chat_is_named(fields: dict[str, Any], param: str) -> None:
    error = error_of(ask(CHAT, {"messages": [USER]} | fields), 400)
    assert error["param"] == param


def test_what_only_the_engine_can_tell_is_refused_without_its_paths() -> None:
    answer = ask(COMPLETIONS, {"prompt": "a", "guided_json": {"impossible": 1}, "stream": True})
    error = error_of(answer, 400)
    assert error["message"] == "The schema at … has no instance."


def test_a_fault_of_the_server_says_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    engine.failure = OSError(2, "No such file", "/srv/secret/weights")
    error = error_of(ask(COMPLETIONS, {"prompt": "a"}, engine=engine), 500)
    assert "secret" not in json.dumps(error) and error["code"] == "internal"
    assert "/srv/secret/weights" in caplog.text, "but its log does"


# ---- addresses, methods, types, sizes -----------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v1/completions/", "/v1/completions/1", "/../etc"]
)
def test_an_address_that_is_not_there_is_a_404(path: str) -> None:
    error_of(ask(path), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", COMPLETIONS), ("POST", "/health"), ("DELETE", "/v1/models"), ("X", "/")],
)
def test_another_method_is_a_405_that_names_the_one_there_is(method: str, path: str) -> None:
    answer = ask(path, method=method)
    error_of(answer, 405)
    assert answer.headers["allow"]


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/tokenize", "/detokenize", "/v1/embeddings"])
def test_an_unknown_model_is_a_404(path: str) -> None:
    body = {"model": "gpt-9", "prompt": "a", "messages": [USER], "tokens": [1], "input": "a"}
    error = error_of(ask(path, body), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "jsonish"]
)
def test_another_media_type_is_a_415(media_type: str) -> None:
    headers = {"content-type": media_type}
    error_of(ask(COMPLETIONS, content=b'{"prompt": "a"}', headers=headers), 415)


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"]
)
def test_json_by_any_name_is_taken(media_type: str) -> None:
    headers = {"content-type": media_type}
    assert ask(COMPLETIONS, content=b'{"prompt": "a"}', headers=headers).status_code == 200


@pytest.mark.parametrize("length", [None, "1000", "99999999999999999999999"])
def test_a_body_that_is_too_large_is_a_413(length: str | None) -> None:
    small = ServerSettings(limits=Limits(body_bytes=100))
    headers = {} if length is None else {"content-length": length}

    async def pieces() -> Any:
        for _ in range(3):
            yield b" " * 50

    answer = ask(COMPLETIONS, content=pieces(), headers=headers, settings=small)
    assert "at most 100 bytes" in error_of(answer, 413)["message"]
    assert answer.headers["connection"] == "close"


def test_a_content_length_that_is_no_number_is_a_400() -> None:
    error_of(ask(COMPLETIONS, content=b"{}", headers={"content-length": "-5"}), 400)


# ---- fuzz ---------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = st.sampled_from(
    (
        "prompt messages max_tokens max_completion_tokens temperature top_p top_k min_p n stop stop_token_ids seed "
        "stream stream_options logprobs top_logprobs echo logit_bias presence_penalty response_format tools "
        "tool_choice guided_json structured_outputs guided_choice model prompt_logprobs priority request_id "
        "chat_template_kwargs min_tokens tokens input encoding_format return_token_ids"
    ).split()
)
_GOOD = {"prompt": "ab", "messages": [USER], "input": "a", "tokens": [1], "max_tokens": 2}


_SETTINGS = settings(
    max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def test_no_json_makes_the_server_fail() -> None:
    engine = FakeEngine(step_s=None)
    app = create_app(engine)

    @_SETTINGS
    @given(st.sampled_from(POSTS), st.dictionaries(_FIELDS, _JSON, max_size=4))
    def holds(path: str, fields: dict[str, Any]) -> None:
        answer = ask(path, _GOOD | fields, app=app)
        if answer.status_code != 200:
            error_of(answer, answer.status_code)
        allowed = {200, 400, 404} | ({501} if path == "/v1/embeddings" else set())
        assert answer.status_code in allowed
        assert not engine.running

    holds()


def test_no_bytes_make_the_server_fail() -> None:
    app = create_app(FakeEngine())

    @_SETTINGS
    @given(st.binary(max_size=64))
    def holds(content: bytes) -> None:
        error_of(ask(COMPLETIONS, content=content, app=app), 400)

    holds()
