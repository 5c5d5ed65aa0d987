"""Calls of tools that a client demands: constrained to the functions' schemas, and read back from the text.

    forced = forced_call(body.tool_choice, body.tools)
    forced.constraint  # What the text must match.
    CallWriter(forced).calls('{"name": "add", "arguments": {"a": 1}}')

A function that is named is answered by its arguments alone; of several the text says which. Calls that the
model makes of itself are part of its text, in the form that it was trained on.
"""

from __future__ import annotations

import dataclasses
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from trellax.inference.requests import Constraint, RequestError
from trellax.inference.server.bodies import NamedTool

_CALL = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\S)')


@dataclasses.dataclass(frozen=True)
class ForcedCall:
    """A call that must be made.

    Attributes:
        constraint: what the text must match.
        name: of the function; None if the text says which.
    """

    constraint: Constraint
    name: str | None


def forced_call(tool_choice: Any, tools: Sequence[Mapping[str, Any]]) -> ForcedCall | None:
    """Returns the call that `tool_choice` demands, if it does.

    Raises:
        RequestError: if there is no such tool.
    """
    if tool_choice in ("none", "auto"):
        return None
    schemas = {tool["function"]["name"]: _arguments_schema(tool) for tool in tools}
    if isinstance(tool_choice, NamedTool):
        name = tool_choice.function.name
        if name not in schemas:
            known = ", ".join(schemas) or "none"
            raise RequestError(
                f"tool_choice names {name!r}, which is not among the tools: {known}.",
                param="tool_choice",
            )
        return ForcedCall(Constraint("json_schema", json.dumps(schemas[name])), name)
    if not schemas:
        raise RequestError('tool_choice is "required" and there are no tools.', param="tool_choice")
    calls = [_call_schema(name, schema) for name, schema in schemas.items()]
    return ForcedCall(Constraint("json_schema", json.dumps({"anyOf": calls})), None)


class CallWriter:
    """Turns the text of a forced call into `tool_calls`, whole or as it comes."""

    def __init__(self, forced: ForcedCall):
        self._name = forced.name
        self._id = f"call_{uuid.uuid4().hex[:24]}"
        self._is_named = forced.name is not None
        self._text = ""
        self._sent = 0
        self._begun = False
        # OpenAI's interface says "stop" of a function that the client has named.
        self.finish_reason = "stop" if self._is_named else "tool_calls"

    def calls(self, text: str) -> list[dict[str, Any]]:
        """Returns the calls of a whole text."""
        delta = self.delta(text, is_last=True)
        return [
            {key: value for key, value in call.items() if key != "index"}
            for call in delta.get("tool_calls", ())
        ]

    def delta(self, text: str, *, is_last: bool) -> dict[str, Any]:
        """Returns what a further piece of text adds to the message."""
        self._text += text
        if self._name is None and not self._read_name():
            return {}
        end = len(self._text)
        if not self._is_named:
            end = self._end_of_arguments(is_last)
        arguments = self._text[self._sent : end]
        self._sent = max(self._sent, end)
        if self._begun:
            if not arguments:
                return {}
            return {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}
        self._begun = True
        function = {"name": self._name, "arguments": arguments}
        return {
            "tool_calls": [{"index": 0, "id": self._id, "type": "function", "function": function}]
        }

    def _read_name(self) -> bool:
        match = _CALL.match(self._text)
        if match is None:
            return False
        self._name = json.loads(match[1])
        self._sent = match.end()
        return True

    def _end_of_arguments(self, is_last: bool) -> int:
        """Returns where the text ends that is sure to be of the arguments: the last brace closes the call."""
        stripped = self._text.rstrip()
        if not is_last:
            return len(stripped.rstrip("} \t\r\n"))
        try:
            json.loads(self._text)
        except ValueError:
            return len(self._text)  # It was cut short.
        return len(stripped) - 1


def _arguments_schema(tool: Mapping[str, Any]) -> Any:
    return tool["function"].get("parameters") or {"type": "object", "properties": {}}


def _call_schema(name: str, schema: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": schema},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
