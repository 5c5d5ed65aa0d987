"""`document`: what the server offers, as OpenAPI 3.1, made of the tables that requests are parsed by."""

from __future__ import annotations

from typing import Any

from trellax.inference.server.fields import schema_of
from trellax.inference.server.operations import OPERATIONS, Operation
from trellax.inference.server.schemas import ERROR, EVENT
from trellax.inference.server.service import Service

_REFUSALS = {
    400: "The request is wrong; the message says where and how.",
    401: "A valid API key is missing.",
    404: "There is no such model.",
    405: "The address has another method.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "The client has too much running; retry-after says when to try again.",
    500: "The server failed.",
    501: "The model does not do this.",
    503: "The server is full, ends or is broken; retry-after says when to try again.",
    504: "The request took too long.",
}


def document(service: Service) -> dict[str, Any]:
    """Returns the OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        path = operation.path.replace(":path}", "}")
        paths.setdefault(path, {})[operation.method.lower()] = _described(operation, service)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": f"Trellax: {service.engine.model.id}",
            "version": service.version,
            "description": "OpenAI's interface to a model, with vLLM's additions.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(service)},
    }
    if service.settings.api_keys:
        scheme = {"type": "http", "scheme": "bearer"}
        described["components"]["securitySchemes"] = {"key": scheme}
        described["security"] = [{"key": []}]
    return described


def _schemas(service: Service) -> dict[str, Any]:
    bodies = {o.body for o in OPERATIONS if o.body is not None}
    limits = service.settings.limits
    schemas = {body.__name__: schema_of(body, limits) for body in bodies}
    return dict(sorted(schemas.items())) | {"Error": ERROR}


def _described(operation: Operation, service: Service) -> dict[str, Any]:
    described: dict[str, Any] = {"summary": operation.about, "responses": _responses(operation)}
    if "{" in operation.path:
        described["parameters"] = [
            {
                "name": "id",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "enum": list(service.model_names)},
            }
        ]
    if operation.body is not None:
        schema = {"$ref": f"#/components/schemas/{operation.body.__name__}"}
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    if operation.path in service.settings.open_paths:
        described["security"] = []
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": operation.answer}}
    if operation.answer is None:
        content = {"text/plain": {"schema": {"type": "string"}}}
    if operation.streams:
        content["text/event-stream"] = {"schema": EVENT}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refusals = {
        str(status): {"description": _REFUSALS[status], "content": error}
        for status in sorted({*operation.refusals, 401, 405, 500})
    }
    return {"200": {"description": operation.about, "content": content}} | refusals
