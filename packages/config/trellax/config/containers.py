"""The inner structure of a tree: what a node is, what lies below it, how containers freeze.

`children(value)` yields `(step, child)` of a config, list, tuple or dict; everything else is a leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any, NoReturn

from trellax.config.errors import FrozenConfigError
from trellax.config.fields import RequiredType
from trellax.config.paths import Step

ATOMS = frozenset(
    {int, float, str, bool, NoneType, complex, bytes, type}
    | {RequiredType, FunctionType, BuiltinFunctionType}
)
"""Types whose values hold nothing that could be changed or is part of a tree: shared, never copied."""


class Node:
    """Base of `Config`, for the modules that `Config` itself is built on."""

    def items(self) -> list[tuple[str, Any]]:
        """Returns (name, value) of each field, in order of declaration."""
        raise NotImplementedError


def is_container(value: Any) -> bool:
    """Whether `value` is a list, dict or plain tuple; a named tuple is a leaf."""
    return isinstance(value, (list, dict)) or (
        isinstance(value, tuple) and not hasattr(value, "_fields")
    )


def is_branch(value: Any) -> bool:
    """Whether `value` is entered by traversal: a config or a container."""
    return type(value) not in ATOMS and (isinstance(value, Node) or is_container(value))


def children(value: Any) -> Iterator[tuple[Step, Any]]:
    """Yields (step, value) of what lies directly below a config, list, tuple or dict."""
    if isinstance(value, Node):
        yield from value.items()
    elif isinstance(value, dict):
        yield from (((k,), v) for k, v in value.items())
    elif is_container(value):
        yield from (((i,), v) for i, v in enumerate(value))


def nodes_in(value: Any) -> Iterator[Any]:
    """Yields the topmost configs in a field's value, containers looked through."""
    if isinstance(value, Node):
        yield value
    elif is_branch(value):
        for _, child in children(value):
            yield from nodes_in(child)


def steps_to(parent: Node, node: Node) -> list[Step] | None:
    """Returns the steps from `parent` to its child `node`, or None if it is not there."""

    def search(value: Any) -> list[Step] | None:
        for step, child in children(value):
            if child is node:
                return [step]
            if is_branch(child) and not isinstance(child, Node):
                below = search(child)
                if below is not None:
                    return [step, *below]
        return None

    return search(parent)


def with_item(container: Any, key: Any, value: Any) -> Any:
    """Returns a copy of a list, tuple or dict in which `key` holds `value`; the rest is shared."""
    if isinstance(container, dict):
        return {**container, key: value}
    items = list(container)
    items[key] = value
    return tuple(items) if isinstance(container, tuple) else items


def frozen(value: Any, where: Callable[[], str]) -> Any:
    """Returns `value` with lists and dicts replaced by frozen ones and configs frozen."""
    if not is_branch(value):
        return value
    if isinstance(value, Node):
        return value.freeze()  # type: ignore[attr-defined]
    if isinstance(value, dict):
        return FrozenDict({k: frozen(v, where) for k, v in value.items()}, where)
    items = [frozen(v, where) for v in value]
    return FrozenList(items, where) if isinstance(value, list) else tuple(items)


def _refuse(self: Any, *_: object, **__: object) -> NoReturn:
    where = f"{self.where()}: " if self.where else ""
    raise FrozenConfigError(f"{where}the tree is frozen; change a clone() and use that.")


class FrozenList(list[Any]):
    """A list of a frozen tree: equal to a list, but refuses changes."""

    where: Callable[[], str] | None = None

    def __init__(self, items: Any = (), where: Callable[[], str] | None = None) -> None:
        super().__init__(items)
        self.where = where

    def __reduce__(self) -> Any:
        return (FrozenList, (list(self),))

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = pop = remove = clear = sort = reverse = _refuse


class FrozenDict(dict[Any, Any]):
    """A dict of a frozen tree: equal to a dict, but refuses changes."""

    where: Callable[[], str] | None = None

    def __init__(self, items: Any = (), where: Callable[[], str] | None = None) -> None:
        super().__init__(items)
        self.where = where

    def __reduce__(self) -> Any:
        return (FrozenDict, (dict(self),))

    __setitem__ = __delitem__ = __ior__ = _refuse
    pop = popitem = clear = update = setdefault = _refuse
