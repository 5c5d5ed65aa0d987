"""Trees as HTML: `to_html(cfg)` shows one, `diff_html(a, b)` two side by side.

    Path("config.html").write_text(to_html(cfg, title="llama2_7b"))

Each is one self-contained page: it folds, it searches, values at their default are dim, and a click
on a name copies the path.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from trellax.config import paths
from trellax.config.containers import children
from trellax.config.defaults import same
from trellax.config.fields import REQUIRED
from trellax.config.html_page import page
from trellax.config.template import Template
from trellax.config.text import Row, class_label, is_open, opened, rows, short_label
from trellax.config.tree import Config

_OPEN_DEPTH = 2
_ABSENT = object()


def to_html(cfg: Config, *, title: str = "") -> str:
    """Returns a page that shows the tree."""
    listed = list(rows(cfg))
    changed = sum(row.changed for row in listed)
    plural = "value differs from its" if changed == 1 else "values differ from their"
    about = (
        f"<code>{escape(class_label(cfg))}</code> · {len(listed) - 1} places, "
        f"{changed} {plural} default"
    )
    body = f'<div class="tree">{"".join(_tree(listed))}</div>'
    return page(title or short_label(cfg), about, body, "Only what differs from defaults")


def diff_html(
    a: Config, b: Config, *, names: tuple[str, str] = ("before", "after"), title: str = ""
) -> str:
    """Returns a page that shows two trees side by side, differences marked.

    Args:
        a: the tree on the left.
        b: the tree on the right.
        names: what the two are called.
        title: the heading; by default made from the names.
    """
    pair = _Pair("", "", a, b)
    number = pair.differences()
    about = f"{number} difference{'' if number == 1 else 's'}"
    columns = "".join(f"<span>{escape(name)}</span>" for name in names)
    body = f'<div class="tree"><div class="columns">{columns}</div>{pair.html(0)}</div>'
    return page(title or " → ".join(names), about, body, "Only differences")


# ---- one tree ---------------------------------------------------------------------------------


def _tree(listed: list[Row]) -> Iterator[str]:
    """Yields HTML for the rows of a tree, which come parents first."""
    has_changes = {""}
    for row in listed:
        if row.changed:
            has_changes.update(_prefixes(row.path))
    depth = -1
    for row in listed:
        yield "</div></details>" * (depth - row.depth + 1)
        depth = row.depth - 1
        if not is_open(row.value):
            yield _leaf(row)
            continue
        is_unfolded = row.depth < _OPEN_DEPTH or row.path in has_changes
        yield f"<details{' open' if is_unfolded else ''}>{_summary(row)}<div>"
        depth = row.depth
    yield "</div></details>" * (depth + 1)


def _leaf(row: Row) -> str:
    state = "changed" if row.changed else "default"
    hint = f' title="set at {escape(str(row.origin))}"' if row.origin else ""
    return (
        f'<div class="leaf {state}" data-path="{escape(row.path)}"{hint}>'
        f"{_name(row.step)}{_value(row.value)}</div>"
    )


def _summary(row: Row) -> str:
    state = "changed" if row.changed else ""
    name = _name(row.step) if row.step != "" else ""
    return f'<summary class="{state}" data-path="{escape(row.path)}">{name}{_value(row.value)}</summary>'


def _prefixes(path: str) -> Iterator[str]:
    steps = paths.parse(path)
    yield from (paths.format_steps(steps[:i]) for i in range(len(steps)))


# ---- two trees --------------------------------------------------------------------------------


class _Pair:
    """The same place in two trees."""

    def __init__(self, path: str, step: paths.Step, a: Any, b: Any) -> None:
        self.path, self.step, self.a, self.b = path, step, a, b
        self.parts = list(self._parts())
        self.kind = self._kind()

    def differences(self) -> int:
        """Returns the number of differing places here and below."""
        return bool(self.kind) + sum(part.differences() for part in self.parts)

    def html(self, depth: int) -> str:
        """Returns the rows of this place and what lies below it."""
        differs = "differs" if self.kind else ""
        cells = self._cell(self.a, "removed") + self._cell(self.b, "added")
        place = f'data-path="{escape(self.path)}" style="--depth: {depth}"'
        if not self.parts:
            dim = "" if self.kind else "default"
            return f'<div class="leaf pair {differs} {dim}" {place}>{cells}</div>'
        is_unfolded = depth == 0 or self.differences()
        inner = "".join(part.html(depth + 1) for part in self.parts)
        summary = f'<summary class="pair {differs}" {place}>{cells}</summary>'
        return f"<details{' open' if is_unfolded else ''}>{summary}<div>{inner}</div></details>"

    def _parts(self) -> Iterator[_Pair]:
        a, b = dict(_shown_parts(self.a)), dict(_shown_parts(self.b))
        for step in a | b:
            here = paths.join(self.path, step)
            yield _Pair(here, step, a.get(step, _ABSENT), b.get(step, _ABSENT))

    def _kind(self) -> str:
        if self.a is _ABSENT or self.b is _ABSENT:
            return "one-sided"
        a, b = opened(self.a), opened(self.b)
        if is_open(a) and is_open(b):
            is_config = isinstance(a, Config) or isinstance(b, Config)
            return "retyped" if is_config and type(a) is not type(b) else ""
        return "" if same(a, b) else "changed"

    def _cell(self, value: Any, one_sided: str) -> str:
        if value is _ABSENT:
            return '<span class="cell"></span>'
        mark = one_sided if self.kind == "one-sided" else self.kind
        name = _name(self.step) if self.step != "" else ""
        return f'<span class="cell {mark}">{name}{_value(value)}</span>'


def _shown_parts(value: Any) -> Iterator[tuple[paths.Step, Any]]:
    if value is not _ABSENT and is_open(value):
        yield from children(opened(value))


def _name(step: paths.Step) -> str:
    text = paths.join("", step)
    return (
        f'<button class="name" type="button" title="Copy path">{escape(text)}</button>'
        f'<span class="sep">:</span>'
    )


def _value(value: Any) -> str:
    kind = "class" if isinstance(value, (Config, Template)) else "value"
    kind += " missing" if value is REQUIRED else ""
    title = f' title="{escape(class_label(opened(value)))}"' if kind == "class" else ""
    return f'<span class="{kind}"{title}>{escape(short_label(value))}</span>'
