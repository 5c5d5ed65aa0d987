"""Chat messages of clients, checked and in the form that templates take.

    checked_messages([{"role": "user", "content": [{"type": "text", "text": "Hi."}]}])

The form is that of OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trellax.inference.requests import RequestError

ROLES = ("system", "developer", "user", "assistant", "tool")

Content = Literal["string", "parts"]
"""What a template takes as a message's content: one text, or a list of `{"type": "text", "text": …}`."""


def checked_messages(messages: Any, *, content: Content = "string") -> list[dict[str, Any]]:
    """Returns a template's messages; raises RequestError, which names the message, if they are none.

    Texts of several parts are joined by line breaks. Arguments of tool calls, which clients send as JSON, become
    objects, as templates expect. Fields that are not known here are handed on.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise _wrong("messages", messages, "a list of at least one message")
    return [_message(m, f"messages[{i}]", content) for i, m in enumerate(messages)]


def checked_tools(tools: Any) -> list[dict[str, Any]]:
    """Returns a template's tools; raises RequestError if they are none."""
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise _wrong("tools", tools, "a list of tools")
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise _wrong(f"tools[{i}]", tool, 'as {"type": "function", "function": {"name": …}}')
    return [dict(tool) for tool in tools]


def _message(message: Any, path: str, content: Content) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise _wrong(path, message, 'an object as {"role": "user", "content": "Hi."}')
    role = message.get("role")
    if role not in ROLES:
        raise _wrong(f"{path}.role", role, "one of " + ", ".join(ROLES))
    calls = message.get("tool_calls")
    text = _text(message.get("content"), f"{path}.content", optional=bool(calls))
    checked = {key: value for key, value in message.items() if value is not None}
    checked["content"] = text if content == "string" else [{"type": "text", "text": text}]
    if calls is not None:
        checked["tool_calls"] = _tool_calls(calls, f"{path}.tool_calls")
    return checked


def _text(content: Any, path: str, *, optional: bool) -> str:
    if content is None and optional:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise _wrong(path, content, "a string or a list of parts")
    return "\n".join(_part(part, f"{path}[{i}]") for i, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text":
        raise _wrong(f"{path}.type", kind, '"text": this model reads text only')
    if not isinstance(part.get("text"), str):
        raise _wrong(f"{path}.text", part.get("text"), "a string")
    return part["text"]


def _tool_calls(calls: Any, path: str) -> list[dict[str, Any]]:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise _wrong(path, calls, "a list of tool calls")
    return [_tool_call(call, f"{path}[{i}]") for i, call in enumerate(calls)]


def _tool_call(call: Any, path: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _wrong(path, call, 'as {"type": "function", "function": {"name": …, "arguments": …}}')
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = _parsed(arguments, f"{path}.function.arguments")
    if not isinstance(arguments, Mapping):
        raise _wrong(f"{path}.function.arguments", arguments, "a JSON object")
    return {**call, "function": {**function, "arguments": arguments}}


def _parsed(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _wrong(path, text, "a JSON object") from None


def _wrong(path: str, value: Any, expected: str) -> RequestError:
    shown = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    shown = shown if len(shown) <= 60 else shown[:60] + "…"
    param = path.split("[", 1)[0]
    return RequestError(f"{path} is {shown}; it must be {expected}.", param=param)
