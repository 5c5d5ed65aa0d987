"""Whether a JSON value fits a JSON schema: the part of the standard that the tests use.

assert fits(json.loads(text), schema)
"""

from __future__ import annotations

import re
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def fits(value: Any, schema: Any, root: Any = None) -> bool:
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        target: Any = root
        for name in schema["$ref"].removeprefix("#").split("/")[1:]:
            target = target[name]
        return fits(value, target, root)
    if "anyOf" in schema and not any(fits(value, one, root) for one in schema["anyOf"]):
        return False
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    return _has_type(value, schema) and _is_within(value, schema) and _holds(value, schema, root)


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def _has_type(value: Any, schema: dict[str, Any]) -> bool:
    names = schema.get("type", list(_TYPES))
    names = [names] if isinstance(names, str) else names
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, _TYPES[name]) for name in names)


def _is_within(value: Any, schema: dict[str, Any]) -> bool:
    """Checks numbers and lengths of texts and arrays, and patterns."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if isinstance(value, str):
        low, high = schema.get("minLength", 0), schema.get("maxLength", len(value))
        return low <= len(value) <= high and re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, list):
        return schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
    return True


def _holds(value: Any, schema: dict[str, Any], root: Any) -> bool:
    """Checks what is in an array or an object."""
    if isinstance(value, list):
        return all(fits(item, schema.get("items", True), root) for item in value)
    if not isinstance(value, dict):
        return True
    known = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    return set(schema.get("required", ())) <= set(value) and all(
        fits(item, known.get(name, others), root) for name, item in value.items()
    )
