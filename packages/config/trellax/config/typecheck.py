"""Real type checks for field values, elements of containers included.

`conform(value, annotation)` returns the value as the tree stores it (configs and containers
copied, ints widened where a float is expected, array types turned into names) or raises a
`Mismatch` that says which element is wrong.
"""

from __future__ import annotations

import collections.abc
import contextlib
import copy
import enum
import operator
import re
import types
import typing
from typing import Annotated, Any, Literal, TypeVar, Union

from trellax.config.containers import ATOMS, Node
from trellax.config.fields import REQUIRED, DType


class Mismatch(Exception):
    """`value` at `suffix` (for example "[3]") does not fit; `expected` says what would."""

    def __init__(self, suffix: str, value: Any, expected: str, hint: str = ""):
        super().__init__(suffix, value, expected, hint)
        self.suffix, self.value, self.expected, self.hint = suffix, value, expected, hint

    def __str__(self) -> str:
        got = brief(self.value)
        kind = type(self.value).__qualname__
        shown = got if isinstance(self.value, (Node, type)) or got == kind else f"{got} ({kind})"
        return f"expected {self.expected}, got {shown}.{self.hint}"


def conform(value: Any, annotation: Any, suffix: str = "") -> Any:
    """Returns `value` in stored form.

    Raises:
        Mismatch: if the value, or an element of it, does not fit the annotation.
    """
    if value is REQUIRED:
        return value
    annotation = stripped(annotation)
    origin = typing.get_origin(annotation)
    if annotation in (Any, object) or isinstance(annotation, TypeVar):
        return by_value(value)
    if origin in (Union, types.UnionType):
        return _conform_union(value, annotation, suffix)
    if origin is Literal:
        return _conform_literal(value, annotation, suffix)
    if annotation is None or annotation is type(None):
        return _require(value is None, value, annotation, suffix)
    if annotation is DType:
        return _conform_dtype(value, suffix)
    if hasattr(annotation, "_conform"):
        return annotation._conform(value, suffix)
    if origin is type or annotation is type:
        return _conform_class(value, annotation, suffix)
    kind = origin or annotation
    if kind is collections.abc.Callable:
        ok = callable(value) and not isinstance(value, Node)
        return _require(ok, value, annotation, suffix)
    if kind in _SEQUENCES:
        return _conform_sequence(value, annotation, kind, suffix)
    if kind in (dict, collections.abc.Mapping):
        return _conform_mapping(value, annotation, suffix)
    return _conform_instance(value, annotation, kind, suffix)


def by_value(value: Any) -> Any:
    """Returns a copy that shares no mutable part with `value`."""
    if type(value) in ATOMS:
        return value
    if isinstance(value, Node):
        return value.clone()  # type: ignore[attr-defined]
    if type(value) is tuple:
        return tuple([by_value(v) for v in value])
    if isinstance(value, list):
        return [by_value(v) for v in value]
    if isinstance(value, dict):
        return {k: by_value(v) for k, v in value.items()}
    if callable(value) and not hasattr(type(value), "__deepcopy__"):
        return value  # Functions and classes are shared: their identity is their meaning.
    return copy.deepcopy(value)


def brief(value: Any) -> str:
    """Returns `value` for a message: a config or class by its name, anything long cut short."""
    if isinstance(value, Node):
        return type(value).__qualname__
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def describe(annotation: Any) -> str:
    """Returns the annotation as a reader would write it: `int | None`, `list[str]`."""
    annotation = stripped(annotation)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return " | ".join(describe(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is DType:
        return "an array type such as 'float32' or 'bfloat16'"
    if origin is collections.abc.Callable:
        return "a callable"
    if origin is not None and args:
        inner = ", ".join("..." if a is Ellipsis else describe(a) for a in args)
        return f"{getattr(origin, '__qualname__', origin)}[{inner}]"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return f"{annotation.__qualname__} ({', '.join(m.name for m in annotation)})"
    return getattr(annotation, "__qualname__", str(annotation))


def stripped(annotation: Any) -> Any:
    """Returns the annotation without `Annotated`, and so without `Required`."""
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


_DTYPE_NAME = re.compile(
    r"bool|u?int(2|4|8|16|32|64)|bfloat16|float(16|32|64|[468]_\w+)|complex(64|128)"
)
_SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)


def _require(ok: bool, value: Any, annotation: Any, suffix: str) -> Any:
    if not ok:
        raise Mismatch(suffix, value, describe(annotation))
    return value


def _conform_union(value: Any, annotation: Any, suffix: str) -> Any:
    options = typing.get_args(annotation)
    # An exact type wins over a conversion, so `int | float` keeps ints as they are.
    exact = [o for o in options if stripped(o) is type(value)]
    deepest: Mismatch | None = None
    for option in exact + [o for o in options if o not in exact]:
        try:
            return conform(value, option, suffix)
        except Mismatch as e:
            if len(e.suffix) > len(deepest.suffix if deepest else suffix):
                deepest = e
    raise deepest or Mismatch(suffix, value, describe(annotation), _hint(value, annotation))


def _conform_literal(value: Any, annotation: Any, suffix: str) -> Any:
    options = typing.get_args(annotation)
    ok = any(type(value) is type(o) and value == o for o in options)
    return _require(ok, value, annotation, suffix)


def _conform_dtype(value: Any, suffix: str) -> str:
    name = value if isinstance(value, str) else getattr(value, "name", None)
    if name is None and hasattr(value, "dtype"):  # jnp.float32 is a class with a `dtype`.
        name = getattr(value.dtype, "name", None)
    if name is None and isinstance(value, type):  # np.float32
        name = value.__name__
    if not isinstance(name, str) or not _DTYPE_NAME.fullmatch(name):
        raise Mismatch(suffix, value, describe(DType))
    return name


def _conform_class(value: Any, annotation: Any, suffix: str) -> Any:
    bounds = typing.get_args(annotation)
    bound = bounds[0] if bounds and isinstance(bounds[0], type) else object
    ok = isinstance(value, type) and issubclass(value, bound)
    return _require(ok, value, annotation, suffix)


def _conform_sequence(value: Any, annotation: Any, kind: Any, suffix: str) -> Any:
    if not isinstance(value, (list, tuple)) or hasattr(value, "_fields"):
        raise Mismatch(suffix, value, describe(annotation))
    args = typing.get_args(annotation)
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(args) != len(value):
            raise Mismatch(suffix, value, f"{describe(annotation)} ({len(args)} elements)")
        items = [conform(v, a, f"{suffix}[{i}]") for i, (v, a) in enumerate(zip(value, args))]
    else:
        element = args[0] if args else Any
        items = [conform(v, element, f"{suffix}[{i}]") for i, v in enumerate(value)]
    wanted = {list: list, tuple: tuple}.get(kind, tuple if isinstance(value, tuple) else list)
    return wanted(items)


def _conform_mapping(value: Any, annotation: Any, suffix: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise Mismatch(suffix, value, describe(annotation))
    key_type, value_type = typing.get_args(annotation) or (Any, Any)
    result = {}
    for k, v in value.items():
        try:
            key = conform(k, key_type)
        except Mismatch as e:
            raise Mismatch(suffix, k, f"keys of type {e.expected}") from None
        result[key] = conform(v, value_type, f"{suffix}[{k!r}]")
    return result


def _conform_instance(value: Any, annotation: Any, kind: Any, suffix: str) -> Any:
    if kind in (int, float) and type(value) is not kind:
        value = _as_number(value, kind)
    if not isinstance(kind, type) or _is_unchecked_protocol(kind):
        return by_value(value)
    ok = isinstance(value, kind)
    if kind in (int, float) and isinstance(value, bool):
        ok = False  # True is an int in Python, and never what the author meant.
    if not ok:
        raise Mismatch(suffix, value, describe(annotation), _hint(value, annotation))
    return by_value(value)


def _as_number(value: Any, kind: type) -> Any:
    """Widens ints to floats and turns array libraries' scalars into Python's."""
    if isinstance(value, (bool, str, Node)):
        return value
    if isinstance(value, kind):
        return value if isinstance(value, enum.Enum) else kind(value)
    with contextlib.suppress(TypeError):
        return kind(operator.index(value))
    return value


def _is_unchecked_protocol(kind: type) -> bool:
    is_protocol = getattr(kind, "_is_protocol", False)
    return is_protocol and not getattr(kind, "_is_runtime_protocol", False)


def _hint(value: Any, annotation: Any) -> str:
    if isinstance(value, type) and hasattr(value, "default_config"):
        return f" Write {value.__qualname__}.default_config() for its config."
    return ""
