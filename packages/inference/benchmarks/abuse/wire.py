"""HTTP by hand, so that nothing between us and the server mends, retries or hides anything.

async for piece in answer_of(connection): ...
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

PATIENCE_S = 300.0
"""Silence after which a request counts as lost; streams say something every 15 s."""


class Broken(Exception):
    """The connection ended before the answer did.

    Attributes:
        had_answer: whether some of the answer had come.
    """

    def __init__(self, why: str, *, had_answer: bool):
        super().__init__(why)
        self.had_answer = had_answer


@dataclasses.dataclass
class Connection:
    """A connection with one request."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    async def read_head(self) -> None:
        """Reads status and headers. Raises: Broken."""
        with _told(had_answer=False):
            head = (await _patient(self.reader.readuntil(b"\r\n\r\n"))).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        self.status = int(first.split(" ", 2)[1])
        self.headers = {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines)}

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yields the body as it was cut by the server. Raises: Broken."""
        with _told(had_answer=True):
            if "chunked" not in self.headers.get("transfer-encoding", ""):
                length = int(self.headers.get("content-length", 0))
                yield await _patient(self.reader.readexactly(length))
                return
            while size := int(await _patient(self.reader.readuntil(b"\r\n")), 16):
                yield (await _patient(self.reader.readexactly(size + 2)))[:-2]
            await _patient(self.reader.readuntil(b"\r\n"))

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    def close(self) -> None:
        """Hangs up without a word."""
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(port: int, limit: int = 1 << 24) -> AsyncIterator[Connection]:
    """Opens a connection. Raises: OSError."""
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port, limit=limit))
    try:
        yield connection
    finally:
        connection.close()


async def send(connection: Connection, data: bytes) -> None:
    """Sends bytes. Raises: Broken."""
    with _told(had_answer=False):
        connection.writer.write(data)
        await _patient(connection.writer.drain())


def request(path: str, body: bytes, *, length: int | None = None, method: str = "POST") -> bytes:
    """Returns a request's bytes, of which `length` may be a lie."""
    length = len(body) if length is None else length
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode() + body


def error_code(body: bytes) -> str | None:
    """Returns the code in an error's body; None if it has not the shape of one."""
    try:
        error: dict[str, Any] = json.loads(body)["error"]
        return error["code"] or error["type"] if error["message"] else None
    except (ValueError, KeyError, TypeError):
        return None


async def _patient(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, PATIENCE_S)


@contextlib.contextmanager
def _told(*, had_answer: bool) -> Any:
    try:
        yield
    except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, ValueError) as error:
        raise Broken(f"{type(error).__name__}: {error}", had_answer=had_answer) from error
