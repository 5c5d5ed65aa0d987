"""Fields of requests, declared once: they are parsed, and described in the OpenAPI document, from the same table.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Body:
        prompt: str = required(Text(), "What to continue.")
        n: int = optional(Integer(at_least=1, at_most="samples"), 1, "How many samples.")

    body = read(Body, {"prompt": "Once", "other": 1}, limits)

Unknown fields are ignored, null is the default, and a bound may be the name of one of `Limits`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import reprlib
from typing import Any, Protocol, TypeVar

from trellax.inference.requests import RequestError
from trellax.inference.server.interface import Json
from trellax.inference.server.settings import Limits

Schema = dict[str, Any]
Bound = int | float | str | None
_T = TypeVar("_T")


class Kind(Protocol):
    """A kind of value."""

    def read(self, value: Json, where: str, limits: Limits) -> Any:
        """Returns what the value means, or raises `RequestError`."""

    def schema(self, limits: Limits) -> Schema:
        """Returns the JSON schema of values that are read."""


@dataclasses.dataclass(frozen=True)
class Boolean:
    """true or false."""

    def read(self, value: Json, where: str, limits: Limits) -> bool:
        if not isinstance(value, bool):
            raise wrong(value, where, "true or false")
        return value

    def schema(self, limits: Limits) -> Schema:
        return {"type": "boolean"}


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number."""

    at_least: float | None = None
    at_most: Bound = None
    above: float | None = None

    def read(self, value: Json, where: str, limits: Limits) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(value, where, self._expected(limits))
        if not self._fits(value, limits):
            raise wrong(value, where, self._expected(limits))
        return float(value)

    def _fits(self, value: float, limits: Limits) -> bool:
        most = _bound(self.at_most, limits)
        return (
            -1e300 < value < 1e300
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (most is None or value <= most)
        )

    def _expected(self, limits: Limits, noun: str = "a number") -> str:
        most = _bound(self.at_most, limits)
        bounds = [
            f"{word} {bound:g}" if isinstance(bound, float) else f"{word} {bound}"
            for word, bound in (("of at least", self.at_least), ("above", self.above))
            if bound is not None
        ]
        if most is not None:
            bounds.append(f"of at most {most}")
        return " ".join([noun, " and ".join(bounds)]).strip()

    def schema(self, limits: Limits) -> Schema:
        bounds = {
            "minimum": self.at_least,
            "exclusiveMinimum": self.above,
            "maximum": _bound(self.at_most, limits),
        }
        return {"type": "number"} | {k: v for k, v in bounds.items() if v is not None}


@dataclasses.dataclass(frozen=True)
class Integer(Number):
    """A whole number of at most 64 bits."""

    def read(self, value: Json, where: str, limits: Limits) -> int:
        expected = self._expected(limits, "a whole number")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(value, where, expected)
        whole = isinstance(value, int) or (math.isfinite(value) and value.is_integer())
        if not whole or not -(2**63) <= value < 2**63 or not self._fits(value, limits):
            raise wrong(value, where, expected)
        return int(value)

    def schema(self, limits: Limits) -> Schema:
        schema = {"minimum": -(2**63), "maximum": 2**63 - 1} | super().schema(limits)
        return schema | {"type": "integer"}


@dataclasses.dataclass(frozen=True)
class Text:
    """A string."""

    min_length: int = 0
    max_length: int | None = None

    def read(self, value: Json, where: str, limits: Limits) -> str:
        if not isinstance(value, str):
            raise wrong(value, where, "a string")
        if len(value) < self.min_length:
            raise wrong(value, where, f"a string of at least {self.min_length} characters")
        if self.max_length is not None and len(value) > self.max_length:
            raise wrong(value, where, f"a string of at most {self.max_length} characters")
        return value

    def schema(self, limits: Limits) -> Schema:
        schema: Schema = {"type": "string"}
        if self.min_length:
            schema["minLength"] = self.min_length
        if self.max_length is not None:
            schema["maxLength"] = self.max_length
        return schema


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few strings."""

    values: tuple[str, ...]

    def read(self, value: Json, where: str, limits: Limits) -> str:
        if not isinstance(value, str) or value not in self.values:
            raise wrong(value, where, " or ".join(f'"{v}"' for v in self.values))
        return value

    def schema(self, limits: Limits) -> Schema:
        return {"type": "string", "enum": list(self.values)}


@dataclasses.dataclass(frozen=True)
class Mapping:
    """A JSON object of any content, or with values of one kind."""

    values: Kind | None = None
    at_most: Bound = None
    key_pattern: str | None = None

    def read(self, value: Json, where: str, limits: Limits) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(value, where, "an object")
        most = _bound(self.at_most, limits)
        if most is not None and len(value) > most:
            raise RequestError(f"{where} has {len(value)} entries; at most {most}.", param=where)
        pattern, kind = self.key_pattern, self.values
        if pattern is not None:
            bad = next((key for key in value if not re.fullmatch(pattern, key)), None)
            if bad is not None:
                raise RequestError(
                    f"{where} has the key {shown(bad)}; keys must match {pattern}.", param=where
                )
        if kind is None:
            return value
        return {key: kind.read(item, f"{where}.{key}", limits) for key, item in value.items()}

    def schema(self, limits: Limits) -> Schema:
        schema: Schema = {"type": "object"}
        most = _bound(self.at_most, limits)
        if most is not None:
            schema["maxProperties"] = most
        if self.key_pattern:
            schema["propertyNames"] = {"pattern": self.key_pattern}
        if self.values is not None:
            schema["additionalProperties"] = self.values.schema(limits)
        return schema


@dataclasses.dataclass(frozen=True)
class ListOf:
    """A list of one kind of values."""

    kind: Kind
    at_least: int = 0
    at_most: Bound = None

    def read(self, value: Json, where: str, limits: Limits) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise wrong(value, where, "a list")
        most = _bound(self.at_most, limits)
        if len(value) < self.at_least:
            raise RequestError(
                f"{where} has {len(value)} entries; it must have at least {self.at_least}.",
                param=where,
            )
        if most is not None and len(value) > most:
            raise RequestError(
                f"{where} has {len(value)} entries; it may have at most {most}.", param=where
            )
        kind = self.kind
        return tuple(kind.read(item, f"{where}[{i}]", limits) for i, item in enumerate(value))

    def schema(self, limits: Limits) -> Schema:
        schema: Schema = {"type": "array", "items": self.kind.schema(limits)}
        most = _bound(self.at_most, limits)
        if self.at_least:
            schema["minItems"] = self.at_least
        if most is not None:
            schema["maxItems"] = most
        return schema


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A value of whichever of the kinds reads it first."""

    kinds: tuple[Kind, ...]
    expected: str

    def read(self, value: Json, where: str, limits: Limits) -> Any:
        nested: RequestError | None = None
        for kind in self.kinds:
            try:
                return kind.read(value, where, limits)
            except RequestError as error:
                if error.param != where or isinstance(value, list):
                    nested = error  # It was of this kind, but for something in it.
        raise nested if nested is not None else wrong(value, where, self.expected)

    def schema(self, limits: Limits) -> Schema:
        return {"anyOf": [kind.schema(limits) for kind in self.kinds]}


@dataclasses.dataclass(frozen=True)
class AsGiven:
    """A value that is handed on as it came to where it is used; it is checked there, or here by `kind` too."""

    kind: Kind
    is_checked: bool = True

    def read(self, value: Json, where: str, limits: Limits) -> Json:
        if self.is_checked:
            self.kind.read(value, where, limits)
        return value

    def schema(self, limits: Limits) -> Schema:
        return self.kind.schema(limits)


@dataclasses.dataclass(frozen=True)
class NotOffered:
    """A value that would change the result, and that there is nothing to do with, but for "no"."""

    def read(self, value: Json, where: str, limits: Limits) -> None:
        if value is not False and value != "":
            raise RequestError(f"{where} is not offered; leave it out.", param=where)

    def schema(self, limits: Limits) -> Schema:
        return {"enum": [False, ""]}


@dataclasses.dataclass(frozen=True)
class Record:
    """An object with fields of its own, declared by a dataclass."""

    type: type

    def read(self, value: Json, where: str, limits: Limits) -> Any:
        return read(self.type, value, limits, where=where)

    def schema(self, limits: Limits) -> Schema:
        return schema_of(self.type, limits)


def required(kind: Kind, about: str) -> Any:
    """Declares a field that must be there."""
    return dataclasses.field(metadata={"kind": kind, "about": about, "required": True})


def optional(kind: Kind, default: Any, about: str) -> Any:
    """Declares a field with a default, which null stands for too."""
    metadata = {"kind": kind, "about": about, "required": False}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read(type_: type[_T], value: Json, limits: Limits, *, where: str = "") -> _T:
    """Returns an instance of a dataclass of fields.

    Raises:
        RequestError: naming the first field that is wrong.
    """
    if not isinstance(value, dict):
        raise wrong(value, where or "The body", "an object")
    found = {}
    for field in dataclasses.fields(type_):  # type: ignore[arg-type]
        path = f"{where}.{field.name}" if where else field.name
        item = value.get(field.name)
        if item is not None:
            found[field.name] = field.metadata["kind"].read(item, path, limits)
        elif field.metadata["required"]:
            raise RequestError(f"{path} is missing.", param=path)
    return type_(**found)


def schema_of(type_: type, limits: Limits) -> Schema:
    """Returns the JSON schema of a dataclass of fields."""
    properties = {}
    for field in dataclasses.fields(type_):
        schema = field.metadata["kind"].schema(limits)
        if not field.metadata["required"]:
            schema = {"anyOf": [schema, {"type": "null"}]}
        properties[field.name] = schema | {"description": field.metadata["about"]}
    must = [f.name for f in dataclasses.fields(type_) if f.metadata["required"]]
    return {"type": "object", "properties": properties} | ({"required": must} if must else {})


def wrong(value: Json, where: str, expected: str) -> RequestError:
    """Returns the error of a value that is not what it should be."""
    return RequestError(
        f"{where} is {shown(value)}; it must be {expected}.",
        param=where if where != "The body" else None,
    )


def shown(value: Json) -> str:
    """Returns a value, shortened, for a message."""
    names = {True: "true", False: "false", None: "null"}
    if value is None or isinstance(value, bool):
        return names[value]
    return reprlib.repr(value)


def _bound(bound: Bound, limits: Limits) -> float | None:
    return getattr(limits, bound) if isinstance(bound, str) else bound
