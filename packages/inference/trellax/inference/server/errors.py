"""`ApiError`: a refusal in OpenAI's shape, and which error becomes which.

    raise ApiError(404, "There is no model 'x'.", param="model", code="model_not_found")

Clients see `{"error": {"message", "type", "param", "code"}}` and a status, by which OpenAI's clients choose
the exception to raise and whether to try again.
"""

from __future__ import annotations

import logging
import math
import re
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from trellax.inference.requests import QueueFullError, RequestError

_LOG = logging.getLogger(__name__)
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_MESSAGES = {
    404: "There is nothing at this address. What there is: GET /openapi.json.",
    405: "This address does not have that method. What there is: GET /openapi.json.",
}
_SECRETS = re.compile(
    r"Traceback \(most recent call last\).*"  # A traceback, and what follows.
    r"|File \"[^\"]*\", line \d+"
    r"|\b(?:at )?0x[0-9a-fA-F]{4,}"  # Addresses of objects, …
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"  # … and of machines.
    r"|(?<![\w/.:])(?:~|[A-Za-z]:)?(?:[/\\][\w.+\-@]+){2,}[/\\]?(?::\d+)*",  # Paths of two parts or more.
    re.DOTALL,
)


class ApiError(Exception):
    """What a client is told.

    Attributes:
        status: of HTTP.
        message: what, where, what would do.
        param: the field that is at fault.
        code: a name for programs.
        headers: besides.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Returns the answer's body."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, default),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """Returns the answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def overloaded(message: str, *, retry_after_s: float, code: str = "overloaded") -> ApiError:
    """Returns the refusal of a server that is full, or stops."""
    return ApiError(503, message, code=code, headers=retry_after(retry_after_s))


def retry_after(seconds: float) -> dict[str, str]:
    """Returns the header that says when to try again."""
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def engine_stopped() -> ApiError:
    """Returns what clients are told once nothing can run any more."""
    return ApiError(503, "The engine has stopped and the server ends.", code="engine_stopped")


def as_api_error(error: BaseException) -> ApiError:
    """Returns what a client is told of any error; those that are nobody's fault but ours are logged."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return ApiError(400, scrubbed(str(error)), param=error.param, code="invalid_value")
    if isinstance(error, QueueFullError):
        return overloaded(str(error), retry_after_s=error.retry_after_s, code="queue_full")
    if isinstance(error, HTTPException):
        message = _MESSAGES.get(error.status_code, error.detail)
        return ApiError(error.status_code, message, headers=dict(error.headers or {}))
    _LOG.error("A request failed.", exc_info=error)
    return ApiError(500, "The server failed on this request; its log says why.", code="internal")


def scrubbed(message: str) -> str:
    """Returns the message without paths, addresses and tracebacks."""
    return _SECRETS.sub("…", message).strip()
