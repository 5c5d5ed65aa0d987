"""`create_app`: the server as an ASGI application.

app = create_app(engine, ServerSettings())
"""

from __future__ import annotations

import functools

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from trellax.inference.server import endpoints
from trellax.inference.server.gate import Gate
from trellax.inference.server.interface import Engine
from trellax.inference.server.openapi import document
from trellax.inference.server.operations import OPERATIONS
from trellax.inference.server.service import Service
from trellax.inference.server.settings import ServerSettings


def create_app(engine: Engine, settings: ServerSettings | None = None) -> ASGIApp:
    """Returns the application that serves an engine."""
    return app_of(Service(engine, settings or ServerSettings()))


def app_of(service: Service) -> ASGIApp:
    """Returns the application of a service, which the caller may tell to drain."""
    settings = service.settings
    routes = [
        Route(o.path, functools.partial(o.endpoint, service), methods=[o.method])
        for o in OPERATIONS
    ]
    if settings.show_page:
        routes.append(Route("/", functools.partial(endpoints.page, service)))
    described = document(service)

    async def openapi(http: Request) -> Response:
        return JSONResponse(described)

    routes.append(Route("/openapi.json", openapi))
    router = Router(routes, redirect_slashes=False, default=_not_found)
    gate = Gate(router, service)
    if not settings.allowed_origins:
        return gate
    return CORSMiddleware(
        gate,
        allow_origins=settings.allowed_origins,
        allow_methods=("GET", "POST"),
        allow_headers=("authorization", "content-type", "x-request-id"),
        expose_headers=("x-request-id", "retry-after"),
    )


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404)
