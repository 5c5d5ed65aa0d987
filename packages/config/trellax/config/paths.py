"""The one path language: `model.decoder.layers[3].attention`, `rules["tpu-.*"]`, and globs over it.

In a glob, `*` stands for one step (or part of a name), `[*]` for any index or key, and `**` for any
number of steps: `model.**.attention`, `model.decoder.layers[*].norm*`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from trellax.config.errors import ConfigError

Step = str | tuple[Any]
"""One step of a path: a field's name, or `(key,)` for an index or dictionary key."""

ANY_DEPTH = "**"


class _AnyKey:
    """The key of the step `[*]`, distinct from a dictionary key that is the text "*"."""

    def __repr__(self) -> str:
        return "*"


ANY_KEY = _AnyKey()
_WILDCARDS = {"*": ".*", "?": "."}
_STEP = re.compile(
    r"(?P<name>[A-Za-z_*?][\w*?]*)"
    r"|\[(?P<key>(?:[^\[\]'\"]|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")+)\]"
)


class KeyText(NamedTuple):
    """A dictionary key that text can only name, such as an enum's member (see `actual_step`)."""

    text: str


def key_text(key: Any) -> str:
    """Returns what stands between the brackets of a step."""
    if isinstance(key, enum.Enum):
        return f"{type(key).__qualname__}.{key.name}"
    return key.text if isinstance(key, KeyText) else repr(key)


def join(prefix: str, step: Step) -> str:
    """Returns the path of the child `step` of the node at `prefix` ("" is the root)."""
    if isinstance(step, tuple):
        return f"{prefix}[{key_text(step[0])}]"
    return f"{prefix}.{step}" if prefix else step


def actual_step(container: Any, step: Step) -> Step:
    """Returns `step` with the key of `container` that its text names, if it is only text."""
    if isinstance(step, tuple) and isinstance(step[0], KeyText) and isinstance(container, dict):
        named = (k for k in container if step[0].text in (key_text(k), str(k)))
        return (next(named, step[0]),)
    return step


def parse(path: str) -> list[Step]:
    """Splits a path or glob into steps.

    Raises:
        ConfigError: if the text is not a path; the message points at the place.
    """
    steps: list[Step] = []
    at = 0
    while at < len(path):
        if path[at] == "." and steps and at + 1 < len(path) and path[at + 1] != "[":
            at += 1
        elif steps and path[at] != "[":
            raise _not_a_path(path, at)
        match = _STEP.match(path, at)
        if not match:
            raise _not_a_path(path, at)
        steps.append(_step(match))
        at = match.end()
    return steps


def format_steps(steps: Sequence[Step]) -> str:
    """The inverse of `parse`."""
    path = ""
    for step in steps:
        path = join(path, step)
    return path


def matches(pattern: str, path: str) -> bool:
    """Whether `path` is selected by the glob `pattern`."""
    return match_steps(parse(pattern), parse(path))


def match_steps(pattern: list[Step], steps: list[Step]) -> bool:
    """`matches` for a parsed pattern and path."""
    if not pattern:
        return not steps
    head, rest = pattern[0], pattern[1:]
    if head == ANY_DEPTH:
        return any(match_steps(rest, steps[i:]) for i in range(len(steps) + 1))
    return bool(steps) and _step_matches(head, steps[0]) and match_steps(rest, steps[1:])


def is_glob(path: str) -> bool:
    """Whether `path` has wildcards, so that it may select several places."""
    return any(
        step[0] is ANY_KEY if isinstance(step, tuple) else "*" in step or "?" in step
        for step in parse(path)
    )


def is_within(path: str, ancestor: str) -> bool:
    """Whether `path` is `ancestor` or lies below it."""
    if ancestor in ("", path):
        return True
    return path.startswith(ancestor) and path[len(ancestor)] in ".["


def _step(match: re.Match[str]) -> Step:
    if match["name"] is not None:
        return match["name"]
    key = match["key"]
    if key == "*":
        return (ANY_KEY,)
    if key.removeprefix("-").isdecimal():
        return (int(key),)
    import ast  # Rare, and a tenth of this package's import time.

    try:
        return (ast.literal_eval(key),)
    except (ValueError, SyntaxError):
        return (KeyText(key),)


def _step_matches(pattern: Step, step: Step) -> bool:
    if isinstance(pattern, tuple) != isinstance(step, tuple):
        return False
    if isinstance(pattern, tuple):
        return pattern[0] is ANY_KEY or pattern == step
    if "*" not in pattern and "?" not in pattern:
        return pattern == step
    parts = (_WILDCARDS.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch("".join(parts), str(step)) is not None


def _not_a_path(path: str, at: int) -> ConfigError:
    return ConfigError(
        f"{path!r} is not a path: unexpected {path[at:]!r} at character {at}. "
        f"Write steps like model.decoder.layers[3].attention or rules['name']."
    )
