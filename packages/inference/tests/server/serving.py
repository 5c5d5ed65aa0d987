"""Ways to ask a server in tests: within the process, or over a socket.

async with client_of(engine) as client:
    answer = await client.post("/v1/completions", json={"prompt": "hi"})
with listening(engine) as server:
    httpx.get(server.url + "/health")
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from tests.server.fakes import FakeEngine
from trellax.inference.server import Server, ServerSettings, create_app


def client_of(engine: FakeEngine, settings: ServerSettings | None = None) -> httpx.AsyncClient:
    """Returns a client whose requests are answered within the process."""
    return _client(create_app(engine, settings))


def ask(
    path: str,
    body: Any = None,
    *,
    engine: FakeEngine | None = None,
    settings: ServerSettings | None = None,
    method: str | None = None,
    app: Any = None,
    **options: Any,
) -> httpx.Response:
    """Returns the answer to one request; `body` is sent as JSON, to `app` if there is one already."""

    async def run() -> httpx.Response:
        async with _client(app or create_app(engine or FakeEngine(), settings)) as client:
            if body is not None:
                options["json"] = body
            how = method or ("GET" if body is None and "content" not in options else "POST")
            return await client.request(how, path, **options)

    return asyncio.run(run())


def _client(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://server")


def events(answer: httpx.Response) -> list[Any]:
    """Returns the JSON of a stream's events; the last is `"[DONE]"` if it ended well."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    pieces = answer.text.split("\n\n")
    assert pieces.pop() == ""
    texts = [piece.removeprefix("data: ") for piece in pieces if not piece.startswith(":")]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


@dataclasses.dataclass
class Listening:
    """A server that listens on loopback."""

    server: Server
    port: int
    exit_codes: list[int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def listening(engine: FakeEngine, settings: ServerSettings | None = None) -> Iterator[Listening]:
    """Serves on a free port in a thread while entered."""
    ports: list[int] = []
    started = threading.Event()

    def begin(host: str, port: int) -> None:
        ports.append(port)
        started.set()

    server = Server(engine, port=0, settings=settings, on_start=begin)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(server.serve_until_ended()))
    thread.start()
    try:
        assert started.wait(10)
        yield Listening(server, ports[0], codes)
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def eventually(holds: Callable[[], bool], *, within_s: float = 5.0) -> bool:
    """Returns whether a condition comes to hold."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
