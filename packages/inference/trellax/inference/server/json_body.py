"""Reading a request's JSON body, whatever a client sends.

    value = await read_json(request, limits)

JSON as RFC 8259 has it: UTF-8, no NaN, no key twice; and bounded in bytes, depth and time.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from trellax.inference.server.errors import ApiError
from trellax.inference.server.interface import Json
from trellax.inference.server.settings import Limits

_CLOSE = {"connection": "close"}
"""The rest of the body is not read, so the connection cannot be used again."""


_PATIENCE = 8
"""Bodies up to so many times the limit are read, and dropped: who is hung up on while sending does not hear why."""


async def read_json(request: Request, limits: Limits) -> Json:
    """Returns the value of the body.

    Raises:
        ApiError: 400, 408, 413 or 415.
    """
    _check_content_type(request.headers.get("content-type", ""))
    return parse_json(await _read_body(request, limits), limits)


def parse_json(body: bytes, limits: Limits) -> Json:
    """Returns the value of JSON text.

    Raises:
        ApiError: 400 if it is none, or is nested too deeply.
    """
    try:
        value = _DECODER.decode(body.decode())
        if b"\\ud" in body or b"\\uD" in body:
            json.dumps(value, ensure_ascii=False).encode()  # Halves of surrogate pairs are no text.
    except UnicodeDecodeError as error:
        raise _malformed(f"byte {error.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise _malformed("it holds half of a surrogate pair") from None
    except RecursionError:
        raise _too_deep(limits) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _malformed(f"{error.msg} at {place}") from None
    except ValueError as error:
        raise _malformed(str(error)) from None
    if body.count(b"[") + body.count(b"{") > limits.json_depth:
        _check_depth(value, limits)
    return value


async def _read_body(request: Request, limits: Limits) -> bytes:
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise ApiError(400, "The header content-length is no number.", headers=_CLOSE)
    most = limits.body_bytes * _PATIENCE
    if len(length) > 18 or int(length) > most:
        raise _too_large(limits)
    body, num_bytes = bytearray(), 0
    try:
        async with asyncio.timeout(limits.body_s):
            async for piece in request.stream():
                num_bytes += len(piece)
                if num_bytes <= limits.body_bytes:
                    body += piece
                elif num_bytes > most:
                    raise _too_large(limits)
    except TimeoutError:
        message = f"The body did not arrive within {limits.body_s:g} seconds."
        raise ApiError(408, message, code="body_timeout", headers=_CLOSE) from None
    except ClientDisconnect:
        raise ApiError(400, "The client left before its body was complete.") from None
    if num_bytes > limits.body_bytes:
        raise _too_large(limits)
    return bytes(body)


def _check_content_type(content_type: str) -> None:
    media_type = content_type.partition(";")[0].strip().lower()
    is_json = media_type == "application/json" or media_type.endswith("+json")
    if media_type and not is_json:
        raise ApiError(
            415,
            "The body must be JSON; send the header content-type: application/json.",
            code="unsupported_media_type",
            headers=_CLOSE,
        )


def _check_depth(value: Json, limits: Limits) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limits.json_depth):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, dict | list)
        ]
    if level:
        raise _too_deep(limits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has the same key twice")
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > 1000:
        raise ValueError("a number is too large")
    return int(text)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_float=_finite,
    parse_int=_integer,
    parse_constant=_no_constant,
)


def _malformed(reason: str) -> ApiError:
    return ApiError(400, f"The body is not valid JSON: {reason}.", code="invalid_json")


def _too_deep(limits: Limits) -> ApiError:
    message = f"The body is nested too deeply; at most {limits.json_depth} levels."
    return ApiError(400, message, code="invalid_json")


def _too_large(limits: Limits) -> ApiError:
    message = f"The body is too large; at most {limits.body_bytes} bytes."
    return ApiError(413, message, code="body_too_large", headers=_CLOSE)
