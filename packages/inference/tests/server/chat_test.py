"""`/v1/chat/completions`: conversations through the model's template, and answers as messages."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.fakes import ByteTokenizer, FakeEngine
from tests.server.serving import ask, events

URL = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
SUBTRACT = {"type": "function", "function": {"name": "subtract"}}


def prompt_of(body: dict[str, Any]) -> str:
    """Returns the text that the engine is given."""
    engine = FakeEngine()
    answer = ask(URL, body, engine=engine)
    assert answer.status_code == 200, answer.text
    return bytes(engine.seen[0].prompt_ids).decode()


# ---- prompts ------------------------------------------------------------------------------------


def test_messages_go_through_the_template() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert prompt_of({"messages": messages}) == "system: Be brief.\nuser: Hello\nassistant:"


def test_content_may_be_a_list_of_parts() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    prompt = prompt_of({"messages": [{"role": "user", "content": parts}]})
    assert prompt == "user: Hel\nlo\nassistant:"


def test_the_generation_prompt_can_be_left_out() -> None:
    assert prompt_of({"messages": HELLO, "add_generation_prompt": False}) == "user: Hello\n"


@pytest.mark.parametrize(("choice", "shown"), [("auto", True), ("none", False)])
def test_tools_are_shown_unless_none_is_wanted(choice: str, shown: bool) -> None:
    prompt = prompt_of({"messages": HELLO, "tools": [ADD], "tool_choice": choice})
    assert ("[tool add]" in prompt) == shown


def test_earlier_tool_calls_and_their_results_are_part_of_a_conversation() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
    ]
    assert "tool: 1" in prompt_of({"messages": messages})


def test_further_variables_reach_the_template() -> None:
    engine = FakeEngine()
    engine.tokenizer = ByteTokenizer("{{ mood }}: {{ messages[0].content }}")
    body = {"messages": HELLO, "chat_template_kwargs": {"mood": "glad"}}
    assert ask(URL, body, engine=engine).status_code == 200
    assert bytes(engine.seen[0].prompt_ids).decode() == "glad: Hello"


def test_a_model_without_a_template_refuses_conversations() -> None:
    engine = FakeEngine()
    engine.tokenizer = ByteTokenizer(None)
    answer = ask(URL, {"messages": HELLO}, engine=engine)
    assert answer.status_code == 400 and "no chat template" in answer.text


# ---- lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({}, 512 - len("user: Hello\nassistant:")),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
    ],
)
def test_the_length_is_what_is_asked_for_or_all_there_is_room_for(
    fields: dict[str, int], length: int
) -> None:
    usage = ask(URL, {"messages": HELLO} | fields).json()["usage"]
    assert usage["completion_tokens"] == length


# ---- answers ------------------------------------------------------------------------------------


def test_an_answer_is_a_message() -> None:
    engine = FakeEngine()
    engine.forced = "Hi."
    answer = ask(URL, {"messages": HELLO}, engine=engine).json()
    assert answer["id"].startswith("chatcmpl-") and answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hi."}
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_by_token(stream: bool) -> None:
    body = {
        "messages": HELLO,
        "max_tokens": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "stream": stream,
    }
    answer = ask(URL, body)
    if stream:
        choices = [chunk["choices"][0] for chunk in events(answer)[1:-1]]
    else:
        choices = answer.json()["choices"]
    content = [entry for choice in choices for entry in choice["logprobs"]["content"]]
    assert [entry["token"] for entry in content] == ["U", "S"]
    assert content[0] == {
        "token": "U",
        "logprob": -0.5,
        "bytes": [85],
        "top_logprobs": [
            {"token": "U", "logprob": -0.5, "bytes": [85]},
            {"token": "V", "logprob": -1.5, "bytes": [86]},
        ],
    }


def test_token_ids_of_prompt_and_answer_come_along_if_asked_for() -> None:
    body = {"messages": HELLO, "max_tokens": 2, "return_token_ids": True}
    answer = ask(URL, body).json()
    assert bytes(answer["prompt_token_ids"]).decode() == "user: Hello\nassistant:"
    assert answer["choices"][0]["token_ids"] == [85, 83]
    first, *_ = events(ask(URL, body | {"stream": True}))
    assert first["choices"][0]["prompt_token_ids"] == answer["prompt_token_ids"]


# ---- demanded calls -----------------------------------------------------------------------------


def call_of(body: dict[str, Any], text: str, *, stream: bool) -> tuple[str, str, str, Any]:
    """Returns a call's name and arguments, the finish reason and the constraint, where the model says `text`."""
    engine = FakeEngine()
    engine.forced = text
    answer = ask(URL, {"messages": HELLO, "stream": stream} | body, engine=engine)
    assert answer.status_code == 200, answer.text
    constraint = engine.seen[0].params.constraint
    if not stream:
        (choice,) = answer.json()["choices"]
        (call,) = choice["message"]["tool_calls"]
        assert call["type"] == "function" and call["id"].startswith("call_")
        function = call["function"]
        return function["name"], function["arguments"], choice["finish_reason"], constraint
    choices = [chunk["choices"][0] for chunk in events(answer)[:-1]]
    calls = [call for c in choices for call in c["delta"].get("tool_calls", ())]
    assert calls[0]["id"].startswith("call_") and len(calls) > 2
    arguments = "".join(call["function"]["arguments"] for call in calls)
    return calls[0]["function"]["name"], arguments, choices[-1]["finish_reason"], constraint


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_that_is_named_gets_constrained_arguments(stream: bool) -> None:
    choice = {"type": "function", "function": {"name": "add"}}
    body = {"tools": [ADD, SUBTRACT], "tool_choice": choice}
    name, arguments, reason, constraint = call_of(body, '{"a": 12}', stream=stream)
    assert (name, arguments, reason) == ("add", '{"a": 12}', "stop")
    assert constraint.kind == "json_schema" and '"integer"' in constraint.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_any_function_can_be_demanded(stream: bool) -> None:
    body = {"tools": [ADD, SUBTRACT], "tool_choice": "required"}
    text = '{"name": "subtract", "arguments": {"a": {"b": "} }"}}}'
    name, arguments, reason, constraint = call_of(body, text, stream=stream)
    assert (name, arguments, reason) == ("subtract", '{"a": {"b": "} }"}}', "tool_calls")
    assert "anyOf" in constraint.text


def test_a_call_that_was_cut_short_is_as_long_as_it_got() -> None:
    body = {"tools": [ADD], "tool_choice": "required", "max_tokens": 35}
    _, arguments, reason, _ = call_of(
        body, '{"name": "add", "arguments": {"a": 12345}}', stream=False
    )
    assert (arguments, reason) == ('{"a": ', "length")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"tool_choice": "required"}, "there are no tools"),
        (
            {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "divide"}}},
            "names 'divide', which is not among the tools: add",
        ),
        (
            {"tools": [ADD], "tool_choice": "required", "guided_regex": "a"},
            "another field says what the text must match",
        ),
    ],
)
def test_calls_that_cannot_be_made_are_refused(body: dict[str, Any], message: str) -> None:
    answer = ask(URL, {"messages": HELLO} | body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "tool_choice"
