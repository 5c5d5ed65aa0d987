"""Whether a manifest is what the schema of its kind allows; the API server of a cluster checks the same.

The schemas in crds/ are structural, as Kubernetes wants them: no references between parts, no alternatives.
"""

import json
import re
from pathlib import Path

SCHEMAS = json.loads((Path(__file__).parent / "crds" / "schemas.json").read_text())
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def complaints(value, schema, path):
    """Yields what is wrong with a JSON value."""
    if "$ref" in schema:
        schema = SCHEMAS["definitions"][schema["$ref"]]
    if schema.get("x-kubernetes-int-or-string"):
        expected = (int, str)
    else:
        expected = TYPES[schema["type"]]
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        yield f"{path} is {value!r}; expected {expected}"
    elif isinstance(value, dict):
        yield from _of_object(value, schema, path)
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{path} has {len(value)} items"
        for i, item in enumerate(value):
            yield from complaints(item, schema["items"], f"{path}[{i}]")
    elif isinstance(value, str):
        if value not in schema.get("enum", [value]):
            yield f"{path} is {value!r}; expected one of {schema['enum']}"
        if not re.search(schema.get("pattern", ""), value):
            yield f"{path} is {value!r}; expected {schema['pattern']}"
    elif not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path} is {value}"


def _of_object(value, schema, path):
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name} is missing"
    for name, item in value.items():
        if name in properties or others:
            yield from complaints(item, properties.get(name, others), f"{path}.{name}")
        elif properties:
            yield f"{path}.{name} is unknown; expected one of {sorted(properties)}"
