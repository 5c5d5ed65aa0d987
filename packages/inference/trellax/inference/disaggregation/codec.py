"""Requests and outputs as JSON values, without loss.

    data = to_json(request)
    assert from_json(Request, json.loads(json.dumps(data))) == request

It follows the types of the dataclass's fields, so a new field of `SamplingParams` travels without a change here.
What comes from a peer is checked against those types, and by the dataclasses themselves.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Returns dataclasses as dicts and tuples as lists, through and through."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_json(x) for x in value]
    return value


def from_json(cls: type[T], data: Any) -> T:
    """Returns the `cls` that `data` stands for.

    Raises:
        ValueError: if `data` is not what `to_json` makes of a `cls`; the message has the path of what is wrong.
    """
    return _decode(cls, data, cls.__name__)


def _decode(hint: Any, data: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _decode_fields(hint, data, path)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(hint), data, path)
    if origin is typing.Literal:
        return _checked(data in typing.get_args(hint), data, hint, path)
    if origin is tuple:
        return _decode_tuple(typing.get_args(hint), data, path)
    # JSON knows no difference between 1 and 1.0, and clients write either for a number.
    accepted = (int, float) if hint is float else (hint,)
    return _checked(type(data) in accepted, data, hint, path)


def _decode_fields(cls: Any, data: Any, path: str) -> Any:
    hints = _field_hints(cls)
    _checked(isinstance(data, dict), data, cls, path)
    if data.keys() != hints.keys():
        wrong = sorted(data.keys() ^ hints.keys())
        raise ValueError(f"{path} has missing or unknown fields {wrong}; expected {sorted(hints)}.")
    return cls(
        **{name: _decode(hint, data[name], f"{path}.{name}") for name, hint in hints.items()}
    )


def _decode_union(hints: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and type(None) in hints:
        return None
    hints = tuple(hint for hint in hints if hint is not type(None))
    for hint in hints[:-1]:
        if hint is type(data):
            return data
    return _decode(hints[-1], data, path)


def _decode_tuple(hints: tuple[Any, ...], data: Any, path: str) -> tuple[Any, ...]:
    _checked(isinstance(data, list), data, tuple, path)
    if hints == (int, ...) and all(map(is_integer, data)):
        return tuple(data)  # Prompts are long.
    if len(hints) == 2 and hints[1] is ...:
        hints = hints[:1] * len(data)
    _checked(len(data) == len(hints), data, hints, path)
    items = enumerate(zip(hints, data, strict=True))
    return tuple(_decode(hint, x, f"{path}[{i}]") for i, (hint, x) in items)


def _checked(holds: bool, data: T, expected: Any, path: str) -> T:
    if not holds:
        name = getattr(expected, "__name__", expected)
        raise ValueError(f"{path} is {str(data)[:100]!r}; expected {name}.")
    return data


def is_integer(value: Any) -> bool:
    """Whether a JSON value is a whole number; Python counts True as one."""
    return isinstance(value, int) and not isinstance(value, bool)


@functools.cache
def _field_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)
