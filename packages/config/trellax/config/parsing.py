"""Text to value, by annotation: `parse_value("1,2", tuple[int, ...])` is `(1, 2)`.

| annotation      | text                                                        |
|-----------------|-------------------------------------------------------------|
| int             | `64`, `1_000`, `4e6`                                        |
| float           | `0.1`, `3e-4`, `inf`                                        |
| bool            | `true`, `false`                                             |
| None            | `none`, `null`                                              |
| str             | as it is; quotes around it are taken off                    |
| list, tuple     | `[1, 2]`, `(1, 2)` or `1,2`; `[]` for none                  |
| dict            | `{"a": 1}`, JSON or Python                                  |
| enum            | a member's name                                             |
| Literal         | one of the values                                           |
| DType           | `bfloat16`                                                  |
| callable, class | `module:Name`                                               |
| a config        | `module:Component` (its default config) or `module:function` |
"""

from __future__ import annotations

import ast
import collections.abc
import enum
import json
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar, Union

from trellax.config.component import Configurable
from trellax.config.containers import Node
from trellax.config.errors import ConfigError, SerializationError, did_you_mean
from trellax.config.fields import DType
from trellax.config.function import config_for_class, config_for_function
from trellax.config.imports import resolve
from trellax.config.template import Template
from trellax.config.typecheck import describe, stripped


class BadText(Exception):
    """The text does not say a value of the annotation; the message says what would."""


def parse_value(text: str, annotation: Any) -> Any:
    """Returns the value that `text` says where `annotation` is expected.

    Raises:
        BadText: if it says none.
    """
    annotation, text = stripped(annotation), text.strip()
    kind = typing.get_origin(annotation) or annotation
    if annotation in (Any, object) or isinstance(annotation, TypeVar):
        return _parse_any(text)
    if kind in (Union, types.UnionType):
        return _parse_union(text, annotation)
    for accepts, parse in _PARSERS:
        if accepts(kind):
            return parse(text, annotation)
    raise _bad(text, annotation)


def element_type(annotation: Any, value: Any, key: Any) -> Any:
    """Returns the annotation of `value[key]`, where `annotation` is that of the container `value`."""
    annotation = stripped(annotation)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        fitting = [a for a in args if isinstance(value, typing.get_origin(a) or type(None))]
        return element_type(fitting[0], value, key) if fitting else Any
    if not args:
        return Any
    if isinstance(value, dict):
        return args[1]
    if isinstance(value, tuple) and args[-1] is not Ellipsis and isinstance(key, int):
        return args[key] if -len(args) <= key < len(args) else Any
    return args[0]


def _bad(text: str, annotation: Any, hint: str = "") -> BadText:
    return BadText(f"expected {describe(annotation)}, got {text!r}.{hint}")


def _parse_any(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in ("none", "null"):
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        return json.loads(text)
    except ValueError:
        return text


def _parse_union(text: str, annotation: Any) -> Any:
    # Text is always a str, so that option comes last.
    options = sorted(typing.get_args(annotation), key=lambda o: stripped(o) is str)
    reasons = []
    for option in options:
        try:
            return parse_value(text, option)
        except BadText as e:
            reasons.append((stripped(option), e))
    others = [e for option, e in reasons if option is not type(None)]
    raise others[0] if len(others) == 1 else _bad(text, annotation)


def _parse_int(text: str, annotation: Any) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        raise _bad(text, annotation) from None
    if not number.is_integer():
        raise _bad(text, annotation)
    return int(number)


def _parse_float(text: str, annotation: Any) -> float:
    try:
        return float(text)
    except ValueError:
        raise _bad(text, annotation) from None


def _parse_bool(text: str, annotation: Any) -> bool:
    if text.lower() not in ("true", "false"):
        raise BadText(f"expected true or false, got {text!r}.")
    return text.lower() == "true"


def _parse_none(text: str, annotation: Any) -> None:
    if text.lower() not in ("none", "null"):
        raise BadText(f"expected none, got {text!r}.")


def _parse_str(text: str, annotation: Any) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        try:
            return str(ast.literal_eval(text))
        except (ValueError, SyntaxError):
            return text
    return text


def _parse_literal(text: str, annotation: Any) -> Any:
    options = typing.get_args(annotation)
    for option in options:
        if text in (str(option), repr(option)) or (option is None and text.lower() == "none"):
            return option
    raise _bad(text, annotation, did_you_mean(text, map(str, options)))


def _parse_enum(text: str, annotation: Any) -> Any:
    name = text.rpartition(".")[2]
    for member in annotation:
        if member.name == name or member.name.lower() == name.lower():
            return member
    raise _bad(text, annotation, did_you_mean(name, [m.name for m in annotation]))


def _parse_sequence(text: str, annotation: Any) -> Any:
    args = typing.get_args(annotation)
    if not text:
        raise _bad(text, annotation)
    parts = _split(text)
    if len(parts) == 1 and text[0] + text[-1] in ("[]", "()"):
        parts = _split(text[1:-1])
    kind = typing.get_origin(annotation) or annotation
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(parts) != len(args):
            raise _bad(text, annotation, f" It has {len(args)} elements.")
        return tuple(parse_value(p, a) for p, a in zip(parts, args, strict=True))
    values = [parse_value(p, args[0] if args else Any) for p in parts]
    return tuple(values) if kind is tuple else values


def _parse_dict(text: str, annotation: Any) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(value, dict):
            return value
    raise _bad(text, annotation, ' Write {"key": value}.')


def _parse_import(text: str, annotation: Any) -> Any:
    try:
        return resolve(text)
    except SerializationError as e:
        raise BadText(str(e)) from None


def _parse_config(text: str, annotation: Any) -> Any:
    target = _parse_import(text, annotation)
    if isinstance(target, type) and issubclass(target, Configurable):
        return target.default_config()
    if isinstance(target, type) and issubclass(target, Node):
        return target()
    try:
        make = config_for_class if isinstance(target, type) else config_for_function
        return make(target)
    except (ConfigError, TypeError) as e:
        raise BadText(f"{text} cannot be configured: {e}") from None


def _parse_other(text: str, annotation: Any) -> Any:
    return _parse_any(text)


def _split(text: str) -> list[str]:
    """Splits at commas that are outside brackets and quotes; a trailing comma adds nothing."""
    parts, depth, quote, start = [], 0, "", 0
    for i, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in "[({":
            depth += 1
        elif c in "])}":
            depth -= 1
        elif c == "," and not depth:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    if not parts[-1].strip():
        parts.pop()
    return parts


def _is_subclass(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


_PARSERS: list[tuple[Callable[[Any], bool], Callable[[str, Any], Any]]] = [
    (lambda k: k is None or k is type(None), _parse_none),
    (lambda k: k is Literal, _parse_literal),
    (lambda k: _is_subclass(k, enum.Enum), _parse_enum),
    (lambda k: k is bool, _parse_bool),
    (lambda k: k is int, _parse_int),
    (lambda k: k is float, _parse_float),
    (lambda k: k in (str, DType), _parse_str),
    (lambda k: k in (dict, collections.abc.Mapping), _parse_dict),
    (
        lambda k: k in (list, tuple, collections.abc.Sequence, collections.abc.Iterable),
        _parse_sequence,
    ),
    (lambda k: k in (type, collections.abc.Callable), _parse_import),
    (lambda k: _is_subclass(k, Node) or k is Template, _parse_config),
    (lambda k: True, _parse_other),
]
