"""The one path language: `model.decoder.layers[3].attention`, `rules["tpu-.*"]`, and globs over it.

In a glob, `*` stands for one step (or part of a name), `[*]` for any index or key, and `**` for any
number of steps: `model.**.attention`, `model.decoder.layers[*].norm*`.
"""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Sequence
from typing import Any

from trellax.config.errors import ConfigError

Step = str | tuple[Any]
"""One step of a path: a field's name, or `(key,)` for an index or dictionary key."""

ANY_DEPTH = "**"
_STEP = re.compile(r"(?P<name>[A-Za-z_*?][\w*?]*)|\[(?P<key>\*|-?\d+|'[^']*'|\"[^\"]*\")\]")


def join(prefix: str, step: Step) -> str:
    """Returns the path of the child `step` of the node at `prefix` ("" is the root)."""
    if isinstance(step, tuple):
        key = "*" if step[0] == "*" else repr(step[0])
        return f"{prefix}[{key}]"
    return f"{prefix}.{step}" if prefix else step


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
    return _matches(parse(pattern), parse(path))


def is_within(path: str, ancestor: str) -> bool:
    """Whether `path` is `ancestor` or lies below it."""
    if ancestor in ("", path):
        return True
    return path.startswith(ancestor) and path[len(ancestor)] in ".["


def _step(match: re.Match[str]) -> Step:
    if match["name"] is not None:
        return match["name"]
    key = match["key"]
    return ("*",) if key == "*" else (ast.literal_eval(key),)


def _matches(pattern: list[Step], steps: list[Step]) -> bool:
    if not pattern:
        return not steps
    head, rest = pattern[0], pattern[1:]
    if head == ANY_DEPTH:
        return any(_matches(rest, steps[i:]) for i in range(len(steps) + 1))
    return bool(steps) and _step_matches(head, steps[0]) and _matches(rest, steps[1:])


def _step_matches(pattern: Step, step: Step) -> bool:
    if isinstance(pattern, tuple) != isinstance(step, tuple):
        return False
    if isinstance(pattern, tuple):
        return pattern[0] == "*" or pattern == step
    return fnmatch.fnmatchcase(str(step), pattern)


def _not_a_path(path: str, at: int) -> ConfigError:
    return ConfigError(
        f"{path!r} is not a path: unexpected {path[at:]!r} at character {at}. "
        f"Write steps like model.decoder.layers[3].attention or rules['name']."
    )
