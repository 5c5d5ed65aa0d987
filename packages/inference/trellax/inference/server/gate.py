"""`Gate`: the outermost layer. Names every request, asks for keys, and lets no error out as it is.

app = Gate(router, service)
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trellax.inference.server.errors import ApiError, as_api_error
from trellax.inference.server.service import Service

_PLAIN_ID = re.compile(r"[\w.:+/=@-]{1,128}", re.ASCII)


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, service: Service):
        self._app = app
        self._service = service
        # Hashed, so that a comparison takes as long whatever is sent.
        self._keys = [_digest(key.encode()) for key in service.settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            key = self._client_key(scope["path"], headers)
            state = {**scope.get("state", {}), "request_id": request_id, "client_key": key}
            # Routes raise what they would else answer as text if there is an "app".
            inner = {**scope, "state": state, "app": self._app}
            await self._app(inner, receive, named)
        except Exception as error:
            answer = as_api_error(error).response()
            if started:
                raise  # The connection is closed, which is all that can be said.
            await answer(scope, receive, named)

    def _client_key(self, path: str, headers: Headers) -> str:
        """Returns which of the keys a client has; raises ApiError, 401, if it needs one and has none."""
        if not self._keys:
            return ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = _digest(given.strip().encode())
        matches = [hmac.compare_digest(digest, key) for key in self._keys]
        if scheme.lower() == "bearer" and any(matches):
            return str(matches.index(True))
        if path in self._service.settings.open_paths:
            return ""
        raise ApiError(
            401,
            "A valid API key is missing; send it in the header Authorization: Bearer KEY.",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _PLAIN_ID.fullmatch(given) else uuid.uuid4().hex


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
