"""The OpenAPI document says what is there: it is made of the tables that requests are parsed by."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.server.endpoints_test import EmbeddingFake
from tests.server.serving import ask
from trellax.inference.server import Limits, ServerSettings

USER = {"role": "user", "content": "a"}
EXAMPLES: list[tuple[str, str, Any]] = [
    ("post", "/v1/completions", {"prompt": "a"}),
    (
        "post",
        "/v1/completions",
        {"prompt": [1, 2], "logprobs": 1, "echo": True, "prompt_logprobs": 1},
    ),
    ("post", "/v1/completions", {"prompt": "a", "stop": "A", "return_token_ids": True}),
    ("post", "/v1/chat/completions", {"messages": [USER], "logprobs": True, "top_logprobs": 2}),
    (
        "post",
        "/v1/chat/completions",
        {"messages": [USER], "prompt_logprobs": 1, "return_token_ids": True},
    ),
    ("post", "/v1/embeddings", {"input": ["a", "b"]}),
    ("post", "/v1/embeddings", {"input": "a", "encoding_format": "base64"}),
    ("post", "/tokenize", {"prompt": "a", "return_token_strs": True}),
    ("post", "/tokenize", {"messages": [USER]}),
    ("post", "/detokenize", {"tokens": [65]}),
    *(
        ("get", path, None)
        for path in ("/v1/models", "/health", "/ping", "/ready", "/load", "/version", "/stats")
    ),
]


@pytest.fixture(scope="module")
def document() -> Any:
    return ask("/openapi.json").json()


def fits(value: Any, schema: Any, root: Any) -> bool:
    """Returns whether a value is what a schema says, of the keywords that are in use here."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        return fits(value, root["components"]["schemas"][name], root)
    if "anyOf" in schema:
        return any(fits(value, option, root) for option in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    types: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "null": type(None),
    }
    kind = schema["type"]
    if kind in ("integer", "number"):
        allowed = int if kind == "integer" else (int, float)
        is_number = isinstance(value, allowed) and not isinstance(value, bool)
        return is_number and value >= schema.get("minimum", value)
    if not isinstance(value, types[kind]):
        return False
    if kind == "array":
        return all(fits(item, schema["items"], root) for item in value)
    if kind == "object":
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties")
        known = all(fits(v, properties[k], root) for k, v in value.items() if k in properties)
        others = [v for k, v in value.items() if k not in properties]
        return (
            known
            and set(schema.get("required", ())) <= set(value)
            and (rest is None or all(fits(v, rest, root) for v in others))
        )
    return True


@pytest.mark.parametrize(("method", "path", "body"), EXAMPLES)
def test_answers_and_requests_fit_their_schemas(
    document: Any, method: str, path: str, body: Any
) -> None:
    operation = document["paths"][path][method]
    if body is not None:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert fits(body, schema, document)
    answer = ask(path, body, engine=EmbeddingFake())
    assert answer.status_code == 200
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert fits(answer.json(), schema, document), answer.json()
    assert set(answer.json()) <= set(schema["properties"]), "nothing undescribed"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", {}, "400"),
        ("/v1/completions", {"prompt": "a", "model": "x"}, "404"),
        ("/v1/embeddings", {"input": "a"}, "501"),
        ("/detokenize", {"tokens": 3}, "400"),
    ],
)
def test_refusals_fit_theirs(document: Any, path: str, body: Any, status: str) -> None:
    answer = ask(path, body)
    assert str(answer.status_code) == status
    schema = document["paths"][path]["post"]["responses"][status]["content"]["application/json"]
    assert fits(answer.json(), schema["schema"], document)


def test_a_schema_refuses_what_the_parser_refuses(document: Any) -> None:
    schema = document["components"]["schemas"]["CompletionBody"]
    for body in ({}, {"prompt": 3}, {"prompt": "a", "n": "1"}, {"prompt": "a", "n": 0}):
        assert not fits(body, schema, document)
        assert ask("/v1/completions", body).status_code == 400


def test_limits_are_told_as_they_are_set() -> None:
    settings = ServerSettings(limits=Limits(samples=3, stops=2))
    document = ask("/openapi.json", settings=settings).json()
    properties = document["components"]["schemas"]["ChatBody"]["properties"]
    assert properties["n"]["anyOf"][0]["maximum"] == 3
    assert properties["stop"]["anyOf"][0]["anyOf"][1]["maxItems"] == 2
    error = ask("/v1/completions", {"prompt": "a", "n": 4}, settings=settings).json()["error"]
    assert "at most 3" in error["message"]


def test_every_field_says_what_it_is(document: Any) -> None:
    for name, schema in document["components"]["schemas"].items():
        for field, described in schema["properties"].items():
            assert name == "Error" or described["description"].endswith("."), (name, field)


def test_keys_are_described_if_they_are_asked_for(document: Any) -> None:
    assert "security" not in document
    settings = ServerSettings(api_keys=("a",))
    headers = {"authorization": "Bearer a"}
    described = ask("/openapi.json", settings=settings, headers=headers).json()
    assert described["security"] == [{"key": []}]
    assert described["paths"]["/health"]["get"]["security"] == []


def test_limits_that_allow_nothing_are_refused() -> None:
    for field in dataclasses.fields(Limits):
        with pytest.raises(ValueError, match=f"limits.{field.name} must be above 0"):
            Limits(**{field.name: 0})
    with pytest.raises(ValueError, match="An API key is empty"):
        ServerSettings(api_keys=("a", ""))


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_events_of_streams_are_as_described(path: str, document: Any) -> None:
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    text = ask(path, {"prompt": "a", "messages": [USER], "stream": True}).text
    events = [dict([line.split(": ", 1)]) for line in text.strip().split("\n\n")]
    schema = content["text/event-stream"]["schema"]
    assert len(events) > 2 and all(fits(event, schema, document) for event in events)
    assert not fits("data: {}", schema, document)
