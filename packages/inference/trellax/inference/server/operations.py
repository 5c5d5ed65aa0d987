"""`OPERATIONS`: the endpoints, with what goes in and comes out. The router and the OpenAPI document are made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request

from trellax.inference.server import endpoints, schemas
from trellax.inference.server.bodies import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    TokenizeBody,
)
from trellax.inference.server.completions import chat_completions, completions
from trellax.inference.server.service import Service

Endpoint = Callable[[Service, Request], Awaitable[Any]]


@dataclasses.dataclass(frozen=True)
class Operation:
    """A method of a path.

    Attributes:
        method: of HTTP.
        path: as the router writes it.
        endpoint: answers.
        about: what it does.
        answer: JSON schema of a good answer; None if that is text.
        body: of the request, a dataclass of fields; None for none.
        streams: whether the answer may be a stream of events.
        refusals: statuses besides those that every operation may have.
    """

    method: str
    path: str
    endpoint: Endpoint
    about: str
    answer: dict[str, Any] | None
    body: type | None = None
    streams: bool = False
    refusals: tuple[int, ...] = ()


_OF_BODY = (400, 404, 408, 413, 415)

OPERATIONS = (
    Operation(
        "POST",
        "/v1/completions",
        completions,
        "Continue prompts, or score them.",
        schemas.COMPLETION,
        body=CompletionBody,
        streams=True,
        refusals=(*_OF_BODY, 429, 503, 504),
    ),
    Operation(
        "POST",
        "/v1/chat/completions",
        chat_completions,
        "Answer a conversation.",
        schemas.CHAT_COMPLETION,
        body=ChatBody,
        streams=True,
        refusals=(*_OF_BODY, 429, 503, 504),
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        endpoints.embeddings,
        "Embed texts, where the model does.",
        schemas.EMBEDDINGS,
        body=EmbeddingBody,
        refusals=(*_OF_BODY, 501, 503),
    ),
    Operation("GET", "/v1/models", endpoints.models, "List the models.", schemas.MODELS),
    Operation(
        "GET",
        "/v1/models/{id:path}",
        endpoints.model,
        "Describe a model.",
        schemas.MODEL,
        refusals=(404,),
    ),
    Operation(
        "POST",
        "/tokenize",
        endpoints.tokenize,
        "Turn a text or a conversation into tokens.",
        schemas.TOKENS,
        body=TokenizeBody,
        refusals=_OF_BODY,
    ),
    Operation(
        "POST",
        "/detokenize",
        endpoints.detokenize,
        "Turn tokens into text.",
        schemas.PROMPT,
        body=DetokenizeBody,
        refusals=_OF_BODY,
    ),
    *(
        Operation(
            "GET",
            path,
            endpoints.health,
            "Whether new requests are taken.",
            schemas.HEALTH,
            refusals=(503,),
        )
        for path in ("/health", "/ping", "/ready")
    ),
    Operation("GET", "/load", endpoints.load, "Sequences that run or wait.", schemas.LOAD),
    Operation("GET", "/metrics", endpoints.metrics, "Metrics for Prometheus.", None),
    Operation("GET", "/version", endpoints.version, "The server's version.", schemas.VERSION),
    Operation("GET", "/stats", endpoints.stats, "What the page shows.", schemas.STATS),
)
