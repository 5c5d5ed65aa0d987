"""Functions and classes of others as nodes of the tree.

    optimizer = config_for_function(optax.adam).set(learning_rate=1e-3)
    optimizer.instantiate()  # calls optax.adam(learning_rate=1e-3)

The fields are the parameters; an argument may itself be a config of what to build.
"""

from __future__ import annotations

import functools
import sys
import typing
from collections.abc import Callable
from typing import Any, ClassVar

from trellax.config.component import InstantiableConfig
from trellax.config.containers import is_branch
from trellax.config.errors import ConfigDefinitionError
from trellax.config.fields import REQUIRED
from trellax.config.tree import Config


class CallConfig(InstantiableConfig[Any]):
    """Config of a call: one field a parameter; `instantiate` makes the call."""

    _component: ClassVar[Callable[..., Any]]

    def _build(self, **runtime: Any) -> Any:
        arguments = {name: _built(value) for name, value in self.items()}
        return type(self)._component(**arguments, **runtime)

    def __reduce__(self) -> Any:
        return (config_for_function, (type(self)._component,), self.__dict__)


def config_for_function(fn: Callable[..., Any]) -> Any:
    """Returns a config whose fields are the parameters of `fn`; nested configs are built first.

    Raises:
        ConfigDefinitionError: for parameters that cannot be named (`*args`) or start with "_".
    """
    return _call_config(fn)()


def config_for_class(cls: type) -> Any:
    """Returns a config whose fields are the parameters of the constructor of `cls`."""
    return _call_config(cls)()


def _built(value: Any) -> Any:
    if isinstance(value, InstantiableConfig):
        return value.instantiate()
    if isinstance(value, dict):
        return {k: _built(v) for k, v in value.items()}
    if is_branch(value) and not isinstance(value, Config):
        kind = tuple if isinstance(value, tuple) else list
        return kind(_built(v) for v in value)
    return value


@functools.cache
def _call_config(fn: Callable[..., Any]) -> type[CallConfig]:
    import inspect  # A tenth of this package's import time; many programs wrap no call.

    annotations: dict[str, Any] = {}
    body: dict[str, Any] = {}
    hints = _hints(fn)
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise ConfigDefinitionError(
                f"{fn.__qualname__}: parameter {parameter} cannot be given by name; "
                f"wrap the function in one whose parameters can."
            )
        if parameter.name.startswith("_"):
            raise ConfigDefinitionError(f"{fn.__qualname__}: {parameter.name} is private.")
        hint = hints.get(parameter.name, Any)
        annotations[parameter.name] = hint if hint is Any else hint | InstantiableConfig
        missing = parameter.default is parameter.empty
        body[parameter.name] = REQUIRED if missing else parameter.default
    names = {"__module__": fn.__module__, "__qualname__": f"{fn.__qualname__}.Config"}
    extra = {"__annotations__": annotations, "__doc__": f"Arguments of {fn.__qualname__}."}
    component = {"_component": staticmethod(fn)}
    return type("Config", (CallConfig,), body | names | extra | component)


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    target = fn.__init__ if isinstance(fn, type) else fn  # type: ignore[misc]
    if sys.modules.get(getattr(fn, "__module__", "")) is None:
        return {}
    try:
        hints = typing.get_type_hints(target)
    except (NameError, TypeError, AttributeError):
        return {}  # Annotations of others that do not resolve leave the field unchecked.
    return {name: hint for name, hint in hints.items() if _is_checkable(hint)}


def _is_checkable(hint: Any) -> bool:
    """Plain Python types are checked; array libraries' unions and aliases of others are not."""
    args = typing.get_args(hint)
    if args:
        return all(_is_checkable(a) for a in args if a is not Ellipsis)
    return hint in (int, float, str, bool, type(None), list, tuple, dict)
