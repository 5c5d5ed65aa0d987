"""What differs between two trees: `diff(a, b)` as data, `format_diff` as aligned text.

    ~ model.dim               4096 -> 64
    ! model.ffn               FeedForwardLayer -> MoELayer
    + model.ffn.num_experts   8

is what `print(format_diff(diff(before, after)))` prints: changed, of another class, added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from trellax.config import paths
from trellax.config.containers import children
from trellax.config.defaults import same
from trellax.config.fields import REQUIRED
from trellax.config.template import Template
from trellax.config.text import format_value, is_open, opened, short_label
from trellax.config.tree import Config

_MARKS = {"added": "+", "removed": "-", "changed": "~", "retyped": "!"}
_COLORS = {"added": "\033[32m", "removed": "\033[31m", "changed": "\033[33m", "retyped": "\033[35m"}


class Change(NamedTuple):
    """One difference. Of what was added `old` is None, of what was removed `new`."""

    path: str
    kind: Literal["added", "removed", "changed", "retyped"]
    old: Any
    new: Any


def diff(a: Config, b: Config) -> list[Change]:
    """Returns the changes that turn `a` into `b`, in tree order.

    A node whose class differs is `retyped`; the fields that both classes have are then compared, and
    those of only one of them are removed or added.
    """
    return list(_compare(a, b, ""))


def format_diff(changes: Iterable[Change], *, color: bool = False, width: int = 0) -> str:
    """Returns the changes as aligned lines `mark path   old -> new`.

    Args:
        changes: what `diff` returned.
        color: whether to use ANSI colours.
        width: values longer than this are cut short; 0 leaves them whole.
    """
    changes = list(changes)
    column = min(60, max((len(c.path or "(root)") for c in changes), default=0))
    return "\n".join(_line(change, column, color, width) for change in changes)


def _compare(a: Any, b: Any, path: str) -> Iterator[Change]:
    a, b = opened(a), opened(b)
    if is_open(a) and is_open(b):
        if type(a) is not type(b) and (isinstance(a, Config) or isinstance(b, Config)):
            yield Change(path, "retyped", a, b)
        yield from _compare_parts(a, b, path)
    elif not same(a, b):
        yield Change(path, "changed", a, b)


def _compare_parts(a: Any, b: Any, path: str) -> Iterator[Change]:
    mine, theirs = dict(children(a)), dict(children(b))
    for step, old in mine.items():
        here = paths.join(path, step)
        if step in theirs:
            yield from _compare(old, theirs[step], here)
        else:
            yield Change(here, "removed", old, None)
    for step, new in theirs.items():
        if step not in mine and new is not REQUIRED:
            yield Change(paths.join(path, step), "added", None, new)


def _line(change: Change, column: int, color: bool, width: int) -> str:
    old, new = _cut(_short(change.old), width), _cut(_short(change.new), width)
    if old == new:  # Two classes of one name, in different modules.
        old, new = _cut(format_value(change.old), width), _cut(format_value(change.new), width)
    shown = {"added": new, "removed": old}.get(change.kind, f"{old} -> {new}")
    line = f"{_MARKS[change.kind]} {change.path or '(root)':<{column}}   {shown}"
    return f"{_COLORS[change.kind]}{line}\033[0m" if color else line


def _short(value: Any) -> str:
    return short_label(value) if isinstance(value, (Config, Template)) else format_value(value)


def _cut(text: str, width: int) -> str:
    return text if not width or len(text) <= width else f"{text[: width - 3]}..."
