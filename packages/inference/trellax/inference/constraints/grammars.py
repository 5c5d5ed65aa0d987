"""Constraints as grammars of the llguidance library.

    grammar_of(Constraint("choice", '["yes", "no"]'))

JSON schemas are read as https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md says, regular
expressions as https://docs.rs/regex/latest/regex/#syntax (no look-around, no back-references; "\\d" is 0 to 9), grammars
as https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md.
"""

from __future__ import annotations

import json
import re
from typing import Any

from trellax.inference.requests import Constraint

# White space between tokens of JSON, bounded: a model that is fond of it would write nothing else for ever.
_WHITESPACE = r"[ \t\r\n]{0,40}"

# The library would look ahead through all text that the grammar leaves no choice in, at every token, to allow its
# usual tokens only. That takes seconds a token where a client forces long texts; a model picks the usual ones itself.
_OPTIONS = '\n%llguidance {"no_forcing": true}\n'


def grammar_of(constraint: Constraint) -> str:
    """Returns the grammar; raises ValueError, with the reason, for a text that is not what its kind says.

    What else is wrong with it shows when a matcher is made of the grammar.
    """
    from llguidance import LLMatcher  # Imported here, for servers that install no constraints.

    return LLMatcher.grammar_from_lark(_lark(constraint) + _OPTIONS)


def _lark(constraint: Constraint) -> str:
    match constraint.kind:
        case "json_schema":
            return _json(_schema(constraint.text))
        case "json_object":
            return _json({"type": "object"})
        case "regex":
            return _regex(constraint.text)
        case "choice":
            return _regex("|".join(map(re.escape, _choices(constraint.text))))
        case "grammar":
            return constraint.text
    raise ValueError(f"there is no constraint of kind {constraint.kind!r}")


def _json(schema: dict[str, Any]) -> str:
    options = schema.get(
        "x-guidance", {}
    )  # The library's own keyword: separators, oneOf as anyOf …
    if not isinstance(options, dict):
        raise ValueError("x-guidance must be an object")
    options = {**options, "whitespace_pattern": _WHITESPACE, "lenient": False}
    return "start: %json " + json.dumps({**schema, "x-guidance": options}, allow_nan=False)


def _regex(regex: str) -> str:
    from llguidance import regex_to_lark

    return f"start: /{regex_to_lark(regex, 'd')}/"


def _schema(text: str) -> dict[str, Any]:
    schema = _parsed(text)
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise ValueError("a schema must be an object")
    return schema


def _choices(text: str) -> list[str]:
    choices = _parsed(text)
    if not isinstance(choices, list) or not choices or not all(isinstance(c, str) for c in choices):
        raise ValueError("choices must be a list of at least one string")
    return choices


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as e:
        raise ValueError(f"it is no JSON: {e}") from None
