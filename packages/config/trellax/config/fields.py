"""What a field of a config is: its name, type and default, read from the class body.

Usage: `class Config(Base): num_heads: Required[int] = REQUIRED`
"""

from __future__ import annotations

import contextlib
import re
import sys
import typing
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from trellax.config.errors import ConfigDefinitionError, RequiredValueUsedError

T = TypeVar("T")

_tracing: ContextVar[set[tuple[int, str]] | None] = ContextVar("tracing", default=None)


class RequiredType:
    """The value of a field that must still be set. Anything computed with it raises at once."""

    _instance: ClassVar[RequiredType | None] = None

    def __new__(cls) -> RequiredType:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "REQUIRED"

    def __bool__(self) -> bool:
        return False

    def __copy__(self) -> RequiredType:
        return self

    def __deepcopy__(self, memo: object) -> RequiredType:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (RequiredType, ())

    def _used(self, *_: object, **__: object) -> Any:
        if _tracing.get() is not None:
            return self
        raise RequiredValueUsedError(
            "A required field was used before it was set; set it or let its parent provide it."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._used()

    # Python insists on the type of these results; while tracing any number will do.
    def __int__(self) -> int:
        return 1 if self._used() is self else 0

    def __float__(self) -> float:
        return float(int(self))

    def __len__(self) -> int:
        return int(self)

    def __iter__(self) -> Iterator[Any]:
        return iter((self._used(),))

    __index__ = __int__
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __pow__ = __rpow__ = _used
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _used
    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __abs__ = _used
    __round__ = __ceil__ = __floor__ = __trunc__ = __getitem__ = __call__ = _used


REQUIRED: Any = RequiredType()
"""Default of a field that has none: it must be set before the tree is finalized."""

Required = Annotated[T, "required"]
"""`Required[int]` reads "an int that somebody must set"; same type as `int`."""


if TYPE_CHECKING:
    DType = str  # Which is what is stored; type checkers need not know how it got there.
else:

    class DType:
        """Annotation of a field that names an array type; its value is a string such as "bfloat16".

        Anything with a NumPy-style name is accepted (`"float32"`, `np.float32`, `jnp.bfloat16`,
        `np.dtype("int8")`) and stored as that name, so configs stay free of array libraries.
        """


@contextlib.contextmanager
def tracing_required() -> Iterator[set[tuple[int, str]]]:
    """Lets REQUIRED flow through arithmetic, to see which fields would be filled from it.

    Yields:
        The set that collects `(id(node), field)` of fields to which REQUIRED was given.
    """
    awaited: set[tuple[int, str]] = set()
    token = _tracing.set(awaited)
    try:
        yield awaited
    finally:
        _tracing.reset(token)


def note_awaited(node: object, name: str) -> None:
    """Records, while tracing, that `name` of `node` was given REQUIRED by somebody."""
    awaited = _tracing.get()
    if awaited is not None:
        awaited.add((id(node), name))


_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def own_fields(cls: type, inherited: dict[str, Any]) -> dict[str, Any]:
    """Returns {name: default} of the fields that the body of `cls` declares or re-defaults.

    Raises:
        ConfigDefinitionError: for a value without annotation or a name that cannot be a field's.
    """
    declared = {}
    for name, annotation in cls.__dict__.get("__annotations__", {}).items():
        if name.startswith("_") or _is_class_var(annotation):
            continue
        if not _FIELD_NAME.fullmatch(name):
            raise ConfigDefinitionError(
                f"{cls.__qualname__}.{name}: a field's name has letters, digits and underscores only."
            )
        declared[name] = cls.__dict__.get(name, inherited.get(name, REQUIRED))
    for name, value in cls.__dict__.items():
        if name in declared or name.startswith("_"):
            continue
        if name in inherited:
            declared[name] = value
        elif not _is_method_like(value):
            raise ConfigDefinitionError(
                f"{cls.__qualname__}.{name} has no annotation; write `{name}: TYPE = ...`."
            )
    _refuse_methods(cls, [name for name in declared if name not in inherited])
    return declared


def field_types(cls: type) -> dict[str, Any]:
    """Returns {name: annotation} with forward references resolved, `Required` kept as `Annotated`."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "_field_defaults" in base.__dict__:
            hints |= _own_types(base)
    return hints


def _own_types(cls: type) -> dict[str, Any]:
    if "_own_types" not in cls.__dict__:
        module = sys.modules.get(cls.__module__)
        scope = vars(typing) | (vars(module) if module else {})
        own = {
            name: _resolve(annotation, scope, cls, name)
            for name, annotation in cls.__dict__.get("__annotations__", {}).items()
            if not name.startswith("_") and not _is_class_var(annotation)
        }
        cls._own_types = own  # type: ignore[attr-defined]
    return cls.__dict__["_own_types"]


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


def _refuse_methods(cls: type, names: list[str]) -> None:
    for name in names:
        if any(name in base.__dict__ for base in cls.__mro__[1:]):
            raise ConfigDefinitionError(
                f"{cls.__qualname__}.{name}: {name!r} is a method of every config; "
                f"choose another name for the field."
            )


def _is_class_var(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.startswith(("ClassVar", "typing.ClassVar"))
    return typing.get_origin(annotation) is ClassVar or annotation is ClassVar


def _is_method_like(value: Any) -> bool:
    return isinstance(value, type) or hasattr(type(value), "__get__")
