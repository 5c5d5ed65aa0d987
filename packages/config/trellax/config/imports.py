"""Objects by name: `import_path(jax.nn.silu)` is "jax.nn:silu", `resolve("jax.nn:silu")` the function.

The path of an object is the public one where there is one: `jax.nn:silu`, not `jax._src.nn.functions:silu`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Any

from trellax.config.errors import SerializationError, did_you_mean

DEFAULT_ROOTS = (
    "trellax",
    "jax",
    "jaxlib",
    "numpy",
    "ml_dtypes",
    "optax",
    "grain",
    "flax",
    "orbax",
)
"""Packages that text from elsewhere may name, unless a caller says otherwise."""

_PLAIN_TYPES = (int, float, str, bool, bytes, list, tuple, dict, set, complex, object, type(None))


def import_path(obj: Any) -> str:
    """Returns "module:Qualname" of a class or function.

    Raises:
        SerializationError: for lambdas, closures and whatever else cannot be imported by name.
    """
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    name = name or getattr(obj, "__name__", None)  # NumPy's ufuncs have only this one.
    if name is None:
        raise SerializationError(f"{_described(obj)} has no name to import it by{_advice(obj)}")
    if "<" in name:
        raise SerializationError(
            f"{name!r} is defined inside a function and cannot be imported; "
            f"define it at the top of a module, or use config_for_function."
        )
    if module is None or _lookup(module, name) is not obj:
        module = _public_module(obj, module or "", name)
        if module is None:
            raise SerializationError(f"{_described(obj)} is not what its name {name!r} imports.")
        return f"{module}:{name}"
    return f"{_public_module(obj, module, name) or module}:{name}"


def resolve(path: str, allowed_roots: Iterable[str] | None = None) -> Any:
    """Returns the object at "module:Qualname".

    Args:
        path: as `import_path` writes it.
        allowed_roots: top-level packages that may be imported; None allows all.

    Raises:
        SerializationError: if the path is not allowed or nothing is there.
    """
    module_name, _, name = path.partition(":")
    if not name:
        raise SerializationError(f"{path!r} is not an import path; write module:Name.")
    allowed = None if allowed_roots is None else set(allowed_roots)
    _refuse_root(path, module_name, allowed)
    try:
        obj: Any = importlib.import_module(module_name)
    except ImportError as e:
        raise SerializationError(f"{path}: cannot import {module_name!r} ({e}).") from e
    for part in name.split("."):
        owner = obj
        obj = getattr(owner, part, None)
        if obj is None or isinstance(obj, type(sys)):
            near = did_you_mean(part, [n for n in dir(owner) if n[0] != "_" and n != part])
            raise SerializationError(f"{path}: {module_name} has no {part!r} of its own.{near}")
    _refuse_root(path, getattr(obj, "__module__", None) or module_name, allowed, obj)
    return obj


def _refuse_root(path: str, module: str, allowed: set[str] | None, obj: Any = None) -> None:
    root = module.partition(".")[0]
    if allowed is None or root in allowed or any(obj is t for t in _PLAIN_TYPES):
        return
    if obj is None and root == "builtins":
        return  # Its plain types are fine, as the call with the object itself will find.
    raise SerializationError(
        f"{path}: {root!r} is not among the packages that may be imported "
        f"({', '.join(sorted(allowed))}); add it to allowed_roots if you trust the text."
    )


def _public_module(obj: Any, module: str, name: str) -> str | None:
    """Returns the public module that offers `obj`: an ancestor, or else the nearest relation."""
    parts = module.split(".")
    ancestors = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
    for each in ancestors:
        if _is_public(each) and _lookup(each, name) is obj:
            return each
    related = [m for m in list(sys.modules) if m.partition(".")[0] == parts[0] and _is_public(m)]
    found = [m for m in related if _lookup(m, name) is obj]

    def distance(candidate: str) -> tuple[int, int, str]:
        own = candidate.split(".")
        return (-len(set(own) & set(parts)), len(own), candidate)

    return min(found, key=distance, default=None)


def _is_public(module: str) -> bool:
    return "._" not in module and not module.startswith("_")


def _lookup(module: str, name: str) -> Any:
    obj: Any = sys.modules.get(module)
    for part in name.split("."):
        obj = getattr(obj, "__dict__", {}).get(part) if obj is not None else None
    return obj.__func__ if isinstance(obj, staticmethod) else obj


def _described(obj: Any) -> str:
    return f"A value of type {type(obj).__qualname__}"


def _advice(obj: Any) -> str:
    if type(obj).__name__ == "partial":
        return "; write config_for_function(fn).set(...) instead of functools.partial."
    return "."
