"""The sandbox that chat templates of published models run in.

    sandbox().from_string("{{ messages[0].content }}").render(messages=[{"content": "Hi."}])

A template is part of the model and is trusted not to loop for ever; what it is given comes from clients. It is
data to the template and never compiled. What templates may call is what Hugging Face's `apply_chat_template` gives
them: `tojson` that escapes nothing for HTML, `raise_exception`, `strftime_now`, `break` and `continue` in loops, and
blocks between `generation` and `endgeneration`, which mark for training what the model says.
"""

from __future__ import annotations

import datetime
import json
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


def sandbox() -> ImmutableSandboxedEnvironment:
    """Returns an environment to compile templates in."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment


class _GenerationBlock(Extension):
    """`{% generation %} … {% endgeneration %}` is what is in it."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
