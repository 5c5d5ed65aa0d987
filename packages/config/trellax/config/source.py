"""Python source from nested calls and displays, laid out as black does: `layout(Call("f", [...]))`.

An expression is text (an atom), a `Call` or `Items`. What fits in a line stays there; else each
argument gets its own line and a trailing comma.
"""

from __future__ import annotations

from typing import NamedTuple

LINE_LENGTH = 100


class Call(NamedTuple):
    """`function(name=value, ...)`, or `function.method(...)` where the function is an expression."""

    function: Source
    arguments: list[tuple[str, Source]]
    method: str = ""


class Items(NamedTuple):
    """A list, tuple or dict display; the keys of lists and tuples are empty."""

    brackets: str
    parts: list[tuple[Source, Source]]


Source = str | Call | Items


def layout(source: Source, *, indent: int, used: int) -> str:
    """Returns the source text.

    Args:
        source: the expression.
        indent: columns that its closing bracket is indented by.
        used: columns before and after it that its first line must leave free, beyond the indent.
    """
    line = flat(source)
    if len(line) + indent + used <= LINE_LENGTH or isinstance(source, str):
        return line
    opening, parts, closing = _pieces(source)
    if not parts:
        return line
    inner = " " * (indent + 4)
    lines = [
        f"{inner}{prefix}{layout(value, indent=indent + 4, used=len(prefix) + 1)},\n"
        for prefix, value in parts
    ]
    return f"{opening}\n{''.join(lines)}{' ' * indent}{closing}"


def flat(source: Source) -> str:
    """Returns the source text on one line."""
    if isinstance(source, str):
        return source
    opening, parts, closing = _pieces(source)
    inner = ", ".join(f"{prefix}{flat(value)}" for prefix, value in parts)
    single = isinstance(source, Items) and source.brackets == "()" and len(parts) == 1
    return f"{opening}{inner}{',' if single else ''}{closing}"


class Imports:
    """The names that a module uses, and the import lines that bring them in."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {"cfg": "", "float": ""}
        self._from: dict[str, set[str]] = {}
        self._modules: set[str] = set()

    def name(self, import_path: str) -> str:
        """Returns how the source refers to the object at "module:Qualname"."""
        module, _, qualname = import_path.partition(":")
        if module == "builtins":
            return qualname
        top = qualname.partition(".")[0]
        is_class = top[0].isupper() or module == "trellax.config"
        if is_class and self._taken.setdefault(top, module) == module:
            self._from.setdefault(module, set()).add(top)
            return qualname
        self._modules.add(module)
        return f"{module}.{qualname}"

    def lines(self) -> list[str]:
        """Returns sorted import lines."""
        lines = [f"import {module}" for module in sorted(self._modules)]
        for module in sorted(self._from):
            names = sorted(self._from[module])
            line = f"from {module} import {', '.join(names)}"
            if len(line) > LINE_LENGTH:
                listed = "".join(f"    {name},\n" for name in names)
                line = f"from {module} import (\n{listed})"
            lines.append(line)
        return lines


def _pieces(source: Call | Items) -> tuple[str, list[tuple[str, Source]], str]:
    if isinstance(source, Call):
        opening = flat(source.function) + (f".{source.method}" if source.method else "") + "("
        return opening, [(f"{k}=" if k else "", v) for k, v in source.arguments], ")"
    parts = [(f"{flat(k)}: " if k else "", v) for k, v in source.parts]
    return source.brackets[0], parts, source.brackets[1]
