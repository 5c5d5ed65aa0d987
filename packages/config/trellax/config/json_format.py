"""Trees as JSON, both ways and lossless: `from_json(to_json(cfg)) == cfg`.

A node is `{"$config": "module:Component", "$set": [names that somebody set], field: value, ...}`, a
node that is a call `{"$call": "module:function", ...}`. What JSON lacks has a key of its own:
`$tuple`, `$dict` (keys that are no text), `$float` (inf, nan), `$enum`, `$ref` (a class or function),
`$dtype`, `$template`, `$record` (a named tuple or dataclass) and `$required`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from trellax.config import paths
from trellax.config.component import component_of
from trellax.config.containers import children, is_container
from trellax.config.errors import ConfigError, SerializationError
from trellax.config.fields import REQUIRED
from trellax.config.function import CallConfig, config_for_function
from trellax.config.imports import DEFAULT_ROOTS, import_path, resolve
from trellax.config.provenance import Origin
from trellax.config.template import Template
from trellax.config.tree import Config

FORMAT = "trellax.config/1"


def to_json(cfg: Config) -> str:
    """Returns the tree as JSON text that `from_json` reads back to an equal tree.

    Raises:
        SerializationError: naming the path of a value that has no text (a lambda, an open file).
    """
    document = {"format": FORMAT, "config": _encode(cfg, "")}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str, *, allowed_roots: Iterable[str] = DEFAULT_ROOTS) -> Any:
    """Returns the tree that `to_json` wrote. Reading imports modules but calls nothing of theirs.

    Args:
        text: what `to_json` returned.
        allowed_roots: top-level packages that the text may import from.

    Raises:
        SerializationError: if the text is of another format, or names what may not be imported.
        ConfigError: if a field is unknown or a value does not fit, with its path.
    """
    try:
        document = json.loads(text)
    except ValueError as e:
        raise SerializationError(f"This is not JSON: {e}.") from e
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise SerializationError(f"Expected JSON of format {FORMAT!r}, got {found!r}.")
    return _Reader(tuple(allowed_roots)).value(document["config"], "")


def is_record(value: Any) -> bool:
    """Whether `value` is a named tuple or a dataclass instance."""
    is_data = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return is_data or (isinstance(value, tuple) and hasattr(value, "_fields"))


def record_fields(value: Any) -> list[tuple[str, Any]]:
    """Returns (name, value) of a named tuple's or dataclass's fields."""
    if isinstance(value, tuple):
        return list(zip(value._fields, value, strict=True))  # type: ignore[attr-defined]
    return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init]


def is_dtype(value: Any) -> bool:
    """Whether `value` is a NumPy dtype object; NumPy itself need not be there."""
    return any(f"{c.__module__}.{c.__qualname__}" == "numpy.dtype" for c in type(value).__mro__)


# ---- writing ----------------------------------------------------------------------------------


def _encode(value: Any, path: str) -> Any:
    if isinstance(value, enum.Enum):
        return {"$enum": f"{_ref(type(value), path)}.{value.name}"}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if value is REQUIRED:
        return {"$required": True}
    if isinstance(value, Config):
        return _encode_node(value, path)
    if isinstance(value, Template):
        return {"$template": _encode(value.cfg, path)}
    if is_container(value):
        return _encode_container(value, path)
    if is_record(value):
        fields = {k: _encode(v, paths.join(path, k)) for k, v in record_fields(value)}
        return {"$record": _ref(type(value), path)} | fields
    if is_dtype(value):
        return {"$dtype": value.name}
    if callable(value) and not _is_instance(value):
        return {"$ref": _ref(value, path)}
    raise SerializationError(
        f"{path}: a value of type {type(value).__qualname__} cannot be written as text; "
        f"describe it by a config of its own (config_for_class, config_for_function)."
    )


def _encode_node(node: Config, path: str) -> dict[str, Any]:
    target = component_of(node) or type(node)
    key = "$call" if isinstance(node, CallConfig) else "$config"
    head: dict[str, Any] = {key: _ref(target, path)}
    is_set = [name for name in node.field_names() if node.is_set(name)]
    if is_set:
        head["$set"] = is_set
    return head | {name: _encode(v, paths.join(path, name)) for name, v in node.items()}


def _encode_container(value: Any, path: str) -> Any:
    parts = [(step, _encode(v, paths.join(path, step))) for step, v in children(value)]
    if not isinstance(value, dict):
        items = [v for _, v in parts]
        return {"$tuple": items} if isinstance(value, tuple) else items
    keys = list(value)
    if all(_is_plain(key) for key in keys):
        return dict(zip(keys, (v for _, v in parts), strict=True))
    encoded_keys = [_encode(key, path) for key in keys]
    return {"$dict": [[k, v] for k, (_, v) in zip(encoded_keys, parts, strict=True)]}


def _is_plain(key: Any) -> bool:
    """Whether a dictionary's key can stand in JSON as it is."""
    return isinstance(key, str) and not isinstance(key, enum.Enum) and not key.startswith("$")


def _ref(obj: Any, path: str) -> str:
    try:
        return import_path(obj)
    except SerializationError as e:
        raise SerializationError(f"{path or '(root)'}: {e}") from None


def _is_instance(value: Any) -> bool:
    """Whether a callable is an object with state rather than a class or function."""
    return not hasattr(value, "__qualname__") and not hasattr(value, "__name__")


# ---- reading ----------------------------------------------------------------------------------


class _Reader:
    """Turns JSON values into tree values."""

    def __init__(self, allowed_roots: tuple[str, ...]) -> None:
        self._roots = allowed_roots
        self._readers: dict[str, Callable[[Any, str], Any]] = {
            "$config": self._config,
            "$call": self._call,
            "$template": lambda v, path: Template(self.value(v["$template"], path)),
            "$tuple": lambda v, path: tuple(self._items(v["$tuple"], path)),
            "$dict": self._dict,
            "$float": lambda v, path: float(v["$float"]),
            "$required": lambda v, path: REQUIRED,
            "$ref": lambda v, path: self._import(v["$ref"], path),
            "$enum": self._enum,
            "$record": self._record,
            "$dtype": self._dtype,
        }

    def value(self, value: Any, path: str) -> Any:
        """Returns the tree value that the JSON `value` at `path` stands for."""
        if isinstance(value, list):
            return self._items(value, path)
        if not isinstance(value, dict):
            return value
        kind = next((key for key in value if key.startswith("$")), None)
        if kind is None:
            return {k: self.value(v, paths.join(path, (k,))) for k, v in value.items()}
        if kind not in self._readers:
            raise SerializationError(f"{path or '(root)'}: {kind!r} is not known to {FORMAT}.")
        return self._readers[kind](value, path)

    def _items(self, values: list[Any], path: str) -> list[Any]:
        return [self.value(v, paths.join(path, (i,))) for i, v in enumerate(values)]

    def _dict(self, value: Any, path: str) -> dict[Any, Any]:
        pairs = [(self.value(k, path), v) for k, v in value["$dict"]]
        return {k: self.value(v, paths.join(path, (k,))) for k, v in pairs}

    def _config(self, value: Any, path: str) -> Config:
        target = self._import(value["$config"], path)
        cls = getattr(target, "Config", target)
        if not (isinstance(cls, type) and issubclass(cls, Config)):
            raise SerializationError(f"{path or '(root)'}: {value['$config']} has no config.")
        return self._filled(cls(), value, path)

    def _call(self, value: Any, path: str) -> Config:
        return self._filled(config_for_function(self._import(value["$call"], path)), value, path)

    def _filled(self, node: Config, value: dict[str, Any], path: str) -> Config:
        origin = Origin("", 0, "read from JSON")
        for name, field in value.items():
            if name.startswith("$"):
                continue
            here = paths.join(path, name)
            stored = node._checked(name, self.value(field, here), here)
            node._store(name, stored, origin)
        node.__dict__["_origins"] = {name: origin for name in value.get("$set", ())}
        return node

    def _enum(self, value: Any, path: str) -> Any:
        cls_path, _, name = value["$enum"].rpartition(".")
        cls = self._import(cls_path, path)
        if not (isinstance(cls, type) and issubclass(cls, enum.Enum) and name in cls.__members__):
            raise SerializationError(f"{path}: {value['$enum']} is not a member of an enum.")
        return cls[name]

    def _record(self, value: Any, path: str) -> Any:
        cls = self._import(value["$record"], path)
        named = isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")
        if not (named or (isinstance(cls, type) and dataclasses.is_dataclass(cls))):
            raise SerializationError(
                f"{path}: {value['$record']} is no named tuple and no dataclass."
            )
        fields = {k: self.value(v, paths.join(path, k)) for k, v in value.items() if k != "$record"}
        try:
            return cls(**fields)
        except (TypeError, ValueError) as e:
            raise ConfigError(f"{path}: {e}") from e

    def _dtype(self, value: Any, path: str) -> Any:
        dtype, name = self._import("numpy:dtype", path), value["$dtype"]
        try:
            return dtype(name)
        except TypeError:  # Types such as bfloat16 live in a package of their own.
            return dtype(self._import(f"ml_dtypes:{name}", path))

    def _import(self, target: str, path: str) -> Any:
        try:
            return resolve(target, self._roots)
        except SerializationError as e:
            raise SerializationError(f"{path or '(root)'}: {e}") from None
