"""Trees as text: `to_text` for golden files, `show` for people, `format_value` for one value.

Usage: `print(show(cfg))`; values that differ from their default carry a star.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from trellax.config import paths
from trellax.config.component import component_of
from trellax.config.containers import children, is_branch, is_container
from trellax.config.defaults import NOTHING, baseline, below, same
from trellax.config.errors import SerializationError
from trellax.config.fields import REQUIRED
from trellax.config.imports import import_path
from trellax.config.provenance import Origin
from trellax.config.template import Template
from trellax.config.tree import Config

_BOLD, _DIM, _ACCENT, _RED, _OFF = "\033[1m", "\033[2m", "\033[36m", "\033[31m", "\033[0m"


class Row(NamedTuple):
    """One place of a tree, as the views show it.

    `changed`: it differs from its default; `origin`: where the field was last set.
    """

    path: str
    step: paths.Step
    value: Any
    depth: int
    changed: bool
    origin: Origin | None = None


def rows(cfg: Config) -> Iterator[Row]:
    """Yields every place of the tree, parents first, the root included; templates are opened."""
    yield Row("", "", cfg, 0, False)
    yield from _rows_below(cfg, baseline(cfg, None), "", 1)


def to_text(cfg: Config) -> str:
    """Returns the tree as canonical text: one line `path: value` a leaf, `path: Class` a node.

    The text does not depend on where or how values were set: it suits golden files.
    """
    lines = [f"{row.path or '(root)'}: {label(row.value)}" for row in rows(cfg) if _has_line(row)]
    return "\n".join(lines) + "\n"


def show(cfg: Config, *, color: bool = False, changed_only: bool = False) -> str:
    """Returns the tree as indented text for a terminal.

    Args:
        cfg: the tree.
        color: whether to use ANSI colours.
        changed_only: whether to leave out values at their default.
    """
    lines = []
    for row in rows(cfg):
        if changed_only and not row.changed and not is_branch(row.value):
            continue
        lines.append(_line(row, color))
    return "\n".join(lines)


def label(value: Any) -> str:
    """Returns a value on one line; a config, template or container of configs by its class."""
    if isinstance(value, Template):
        return f"template of {class_label(value.cfg)}"
    if isinstance(value, Config):
        return class_label(value)
    return format_value(value)


def class_label(node: Config) -> str:
    """Returns what a node builds: `trellax.layers:Linear`, `optax:adamw`."""
    target = component_of(node) or type(node)
    try:
        return import_path(target)
    except SerializationError:
        return f"{target.__module__}:{target.__qualname__}"


def format_value(value: Any) -> str:
    """Returns a value as one line of text, the same in each process."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if value is None or value is REQUIRED or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, (Config, Template)):
        return label(value)
    if isinstance(value, dict):
        inner = ", ".join(f"{format_value(k)}: {format_value(v)}" for k, v in value.items())
        return f"{{{inner}}}"
    if is_branch(value):
        inner = ", ".join(format_value(v) for v in value)
        if isinstance(value, tuple):
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        return f"[{inner}]"
    if callable(value):
        return _callable_name(value)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def opened(value: Any) -> Any:
    """Returns what to look into for the children of `value`: a template's config."""
    return value.cfg if isinstance(value, Template) else value


def is_open(value: Any) -> bool:
    """Whether `value` is shown as several rows: a node, or a container that has one inside."""
    if isinstance(value, (Config, Template)):
        return True
    return is_branch(value) and any(is_open(v) for _, v in children(value))


def _callable_name(value: Any) -> str:
    try:
        return import_path(value)
    except SerializationError:
        name = getattr(value, "__qualname__", None)
        if name is None:
            return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
        return f"{getattr(value, '__module__', '')}:{name}"


def _rows_below(
    value: Any, default: Any, path: str, depth: int, origin: Origin | None = None
) -> Iterator[Row]:
    for step, child in children(value):
        slot_default, here = below(default, step), paths.join(path, step)
        inner, inner_default = opened(child), opened(slot_default)
        changed = _differs(inner, inner_default)
        if isinstance(value, Config):
            origin = value.origin(str(step))
        yield Row(here, step, child, depth, changed, origin)
        if isinstance(inner, Config):
            inner_default = baseline(inner, inner_default)
        if is_open(child):
            yield from _rows_below(inner, inner_default, here, depth + 1, origin)


def _differs(value: Any, default: Any) -> bool:
    """Whether a value, or the class of a node, or the keys of a container are not the default's."""
    if isinstance(value, Config):
        return type(value) is not type(default)
    if is_open(value):
        return not is_container(default) or len(value) != len(default)
    return default is NOTHING or not same(value, default)


def _has_line(row: Row) -> bool:
    return isinstance(row.value, (Config, Template)) or not is_open(row.value)


def _line(row: Row, color: bool) -> str:
    name = paths.join("", row.step)
    indent = "  " * row.depth
    shown = short_label(row.value)
    mark = "  *" if row.changed else ""
    if not color:
        return f"{indent}{name}{': ' if name else ''}{shown}{mark}"
    if isinstance(row.value, Config):
        shown = f"{_ACCENT}{shown}{_OFF}"
    style = _RED if row.value is REQUIRED else _BOLD if row.changed else ""
    if not row.changed and not is_open(row.value) and not style:
        return f"{indent}{_DIM}{name}: {shown}{_OFF}"
    return f"{indent}{name}{': ' if name else ''}{style}{shown}{_OFF if style else ''}{mark}"


def short_label(value: Any) -> str:
    """Returns a value as people read it: classes without module, containers of nodes by length."""
    if isinstance(value, Template):
        return f"template of {short_class(value.cfg)}"
    if isinstance(value, Config):
        return short_class(value)
    if is_open(value):
        kind = type(value).__mro__[-2].__name__  # A frozen list is a list to its reader.
        return f"{kind} of {len(value)}"
    return format_value(value)


def short_class(node: Config) -> str:
    """Returns the name of what a node builds, without its module."""
    target = component_of(node) or type(node)
    return getattr(target, "__qualname__", str(target))
