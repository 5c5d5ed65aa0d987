"""The endpoints that generate nothing: models, tokens, embeddings, and what the server says of itself."""

from __future__ import annotations

import array
import base64
import importlib.resources
import sys
import time
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from trellax.inference.requests import RequestError
from trellax.inference.server.bodies import DetokenizeBody, EmbeddingBody, TokenizeBody
from trellax.inference.server.errors import ApiError
from trellax.inference.server.fields import read
from trellax.inference.server.interface import EmbeddingEngine
from trellax.inference.server.service import Service


async def models(service: Service, http: Request) -> Response:
    """Answers `GET /v1/models`."""
    cards = [_card(service, name) for name in service.model_names]
    return JSONResponse({"object": "list", "data": cards})


async def model(service: Service, http: Request) -> Response:
    """Answers `GET /v1/models/{id}`."""
    name = http.path_params["id"]
    service.check_model(name)
    return JSONResponse(_card(service, name))


async def tokenize(service: Service, http: Request) -> Response:
    """Answers `POST /tokenize`."""
    limits = service.settings.limits
    body = read(TokenizeBody, await service.json_body(http), limits)
    service.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("Give prompt or messages, and not both.", param="prompt")
    if body.messages is not None:
        ids = (await service.prompts.chat(body.messages, body, show_tools=True)).ids
    elif body.prompt:
        (prompt,) = await service.prompts.completion(
            body.prompt, add_special_tokens=body.add_special_tokens
        )
        ids = prompt.ids
    else:
        ids = ()
    texts = [service.logprob_shapes.token_text(i) for i in ids] if body.return_token_strs else None
    return JSONResponse(
        {
            "count": len(ids),
            "max_model_len": service.engine.model.max_length,
            "tokens": ids,
            "token_strs": texts,
        }
    )


async def detokenize(service: Service, http: Request) -> Response:
    """Answers `POST /detokenize`."""
    limits = service.settings.limits
    body = read(DetokenizeBody, await service.json_body(http), limits)
    service.check_model(body.model)
    vocab_size = service.engine.tokenizer.vocab_size
    if any(token >= vocab_size for token in body.tokens):
        raise RequestError(
            f"tokens has {max(body.tokens)}; the tokenizer's are 0 to {vocab_size - 1}.",
            param="tokens",
        )
    text = service.engine.tokenizer.decode(body.tokens, skip_special_tokens=False)
    return JSONResponse({"prompt": text})


async def embeddings(service: Service, http: Request) -> Response:
    """Answers `POST /v1/embeddings`."""
    limits = service.settings.limits
    body = read(EmbeddingBody, await service.json_body(http), limits)
    service.check_model(body.model)
    engine = service.engine
    if not isinstance(engine, EmbeddingEngine):
        message = f"The model {engine.model.id!r} gives no embeddings; it continues text."
        raise ApiError(501, message, code="not_offered")
    service.check_ready()
    prompts = await service.prompts.completion(body.input, param="input")
    vectors = await engine.embed([prompt.ids for prompt in prompts])
    num_tokens = sum(len(prompt.ids) for prompt in prompts)
    data = [
        {"object": "embedding", "index": i, "embedding": _written(vector, body.encoding_format)}
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return JSONResponse({"object": "list", "data": data, "model": engine.model.id, "usage": usage})


async def health(service: Service, http: Request) -> Response:
    """Answers `GET /health`, `/ping` and `/ready`: 200 while new work is taken, else 503."""
    service.check_ready()
    return JSONResponse({"status": "ok"})


async def load(service: Service, http: Request) -> Response:
    """Answers `GET /load`: sequences that run or wait."""
    return JSONResponse({"server_load": service.admission.num_active})


async def metrics(service: Service, http: Request) -> Response:
    """Answers `GET /metrics`, for Prometheus."""
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


async def version(service: Service, http: Request) -> Response:
    """Answers `GET /version`."""
    return JSONResponse({"version": service.version})


async def stats(service: Service, http: Request) -> Response:
    """Answers `GET /stats`: what the page shows, as counters and gauges of now."""
    engine, counted = service.engine.stats(), service.metrics
    first_token_s = sorted(counted.recent_first_token_s)
    return JSONResponse(
        {
            "model": service.engine.model.id,
            "max_length": service.engine.model.max_length,
            "can_chat": service.engine.tokenizer.chat_template is not None,
            "time": time.time(),
            "is_ready": service.is_ready,
            "num_requests_running": engine.num_running,
            "num_requests_waiting": engine.num_waiting,
            "kv_cache_usage_perc": engine.page_usage,
            "prefix_cache_queries": engine.prefix_cache_queries,
            "prefix_cache_hits": engine.prefix_cache_hits,
            "num_preemptions": engine.num_preemptions,
            "prompt_tokens": counted.prompt_tokens,
            "generation_tokens": counted.generation_tokens,
            "median_time_to_first_token_seconds": (
                first_token_s[len(first_token_s) // 2] if first_token_s else None
            ),
        }
    )


async def page(service: Service, http: Request) -> Response:
    """Answers `GET /`: the page to chat with the model."""
    source = importlib.resources.files(__package__).joinpath("page.html")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
    headers = {"content-security-policy": policy, "x-content-type-options": "nosniff"}
    return HTMLResponse(source.read_text("utf-8"), headers=headers)


def _card(service: Service, name: str) -> dict[str, Any]:
    model = service.engine.model
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "trellax",
        "root": model.id,
        "max_model_len": model.max_length,
    }


def _written(vector: Any, encoding: str) -> Any:
    values = array.array("f", map(float, vector))
    if encoding == "float":
        return values.tolist()
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode()
