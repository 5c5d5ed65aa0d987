"""What a field of a config is: its name, type and default, read from the class body.

Usage: `class Config(Base): num_heads: Required[int] = REQUIRED`
"""

from __future__ import annotations

import re
import sys
import types
import typing
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar

from trellax.config.errors import ConfigDefinitionError, RequiredValueUsedError

T = TypeVar("T")


class _RequiredType:
    """The value of a field that must still be set. Anything computed with it raises at once."""

    _instance: ClassVar[_RequiredType | None] = None

    def __new__(cls) -> _RequiredType:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "REQUIRED"

    def __bool__(self) -> bool:
        return False

    def __copy__(self) -> _RequiredType:
        return self

    def __deepcopy__(self, memo: object) -> _RequiredType:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_RequiredType, ())

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise RequiredValueUsedError(
            "A required field was used before it was set; set it or let its parent provide it."
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __pow__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __int__ = __float__ = __index__ = _refuse
    __len__ = __iter__ = __getitem__ = __call__ = _refuse


REQUIRED: Any = _RequiredType()
"""Default of a field that has none: it must be set before the tree is finalized."""

Required = Annotated[T, "required"]
"""`Required[int]` reads "an int that somebody must set"; same type as `int`."""


class DType:
    """Annotation of a field that names an array type; its value is a string such as "bfloat16".

    Anything with a NumPy-style name is accepted (`"float32"`, `np.float32`, `jnp.bfloat16`,
    `np.dtype("int8")`) and stored as that name, so configs stay free of array libraries.
    """


_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]*")


def own_fields(cls: type) -> dict[str, Any]:
    """Returns {name: default} of the fields that the body of `cls` declares or re-defaults."""
    annotations = cls.__dict__.get("__annotations__", {})
    declared = {}
    for name, annotation in annotations.items():
        if name.startswith("_") or _is_class_var(annotation):
            continue
        if not _FIELD_NAME.fullmatch(name):
            raise ConfigDefinitionError(
                f"{cls.__qualname__}.{name}: a field's name is lower_case_with_underscores."
            )
        declared[name] = cls.__dict__.get(name, REQUIRED)
    for name, value in cls.__dict__.items():
        if name in declared or name.startswith("_") or _is_method_like(value):
            continue
        if name not in getattr(cls, "_field_defaults", {}):
            raise ConfigDefinitionError(
                f"{cls.__qualname__}.{name} has no annotation; write `{name}: TYPE = ...`."
            )
        declared[name] = value
    return declared


def field_types(cls: type) -> dict[str, Any]:
    """Returns {name: annotation} with forward references resolved, `Required` kept as `Annotated`."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        annotations = base.__dict__.get("__annotations__", {})
        if not annotations:
            continue
        module = sys.modules.get(base.__module__)
        scope = dict(vars(typing)) | (vars(module) if module else {})
        for name, annotation in annotations.items():
            if name.startswith("_") or _is_class_var(annotation):
                continue
            hints[name] = _resolve(annotation, scope, base, name)
    return hints


def _resolve(annotation: Any, scope: dict[str, Any], cls: type, name: str) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, scope, dict(vars(cls)))  # noqa: S307 - our own source text
    except (NameError, AttributeError) as e:
        raise ConfigDefinitionError(
            f"{cls.__module__}.{cls.__qualname__}.{name}: cannot resolve {annotation!r} ({e}); "
            f"import the name at module level."
        ) from e


def _is_class_var(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.startswith(("ClassVar", "typing.ClassVar"))
    return typing.get_origin(annotation) is ClassVar or annotation is ClassVar


def _is_method_like(value: Any) -> bool:
    kinds = (types.FunctionType, classmethod, staticmethod, property, type)
    return isinstance(value, kinds)
