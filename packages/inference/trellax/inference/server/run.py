"""`run_server`: serves until it is told to stop, and stops in order.

    exit_code = run_server(engine, host="127.0.0.1", port=8000, settings=ServerSettings())

SIGTERM or Ctrl-C begins the end: `/health` says 503, new requests are refused, running ones may finish; a
second signal ends them.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from trellax.inference.server.app import app_of
from trellax.inference.server.connections import guarded_protocol
from trellax.inference.server.errors import engine_stopped, overloaded
from trellax.inference.server.interface import Engine
from trellax.inference.server.service import Service
from trellax.inference.server.settings import ServerSettings

_LOG = logging.getLogger(__name__)
_LAST_WORDS_S = 2.0
"""How long answers to requests that are ended may take."""


def run_server(
    engine: Engine,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: ServerSettings | None = None,
    on_start: Callable[[str, int], None] | None = None,
) -> int:
    """Serves an engine until a signal ends it; returns the exit code of the process.

    Args:
        engine: what to serve.
        host: address to listen at; "0.0.0.0" for all of the machine's.
        port: 0 for any.
        settings: of the server.
        on_start: is called with address and port once they can be used.

    Returns:
        0 after a signal, 1 if the engine died or the address cannot be had.
    """
    server = Server(engine, host=host, port=port, settings=settings, on_start=on_start)
    return server.serve_until_ended()


class Server(uvicorn.Server):
    """A uvicorn that drains before it ends, and ends if the engine dies."""

    def __init__(
        self,
        engine: Engine,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        settings: ServerSettings | None = None,
        on_start: Callable[[str, int], None] | None = None,
    ):
        """The arguments are those of `run_server`."""
        self.service = Service(engine, settings or ServerSettings())
        self._drains_since_s: float | None = None
        self._is_hurried = False
        self._engine_died = False
        self._on_start = on_start
        super().__init__(
            uvicorn.Config(
                app_of(self.service),
                host=host,
                port=port,
                http=guarded_protocol(self.service.settings.limits),
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=_LAST_WORDS_S,  # type: ignore[arg-type]
            )
        )

    def serve_until_ended(self) -> int:
        """Serves; returns the exit code."""
        try:
            self.run()
        except SystemExit:  # uvicorn's way to say that the address is taken; it has logged why.
            return 1
        return 0 if self.started and not self._engine_died else 1

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, and says so."""
        await super().startup(sockets)
        if self._on_start is not None:
            self._on_start(*self.servers[0].sockets[0].getsockname()[:2])

    def drain(self) -> None:
        """Begins the end. May be called in a signal handler, and on any thread."""
        if self._drains_since_s is None:
            self._drains_since_s = time.monotonic()
            self.service.is_draining = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drains at the first signal and waits no longer at the second."""
        self._is_hurried = self._drains_since_s is not None
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        """Returns whether to end now; uvicorn asks ten times a second."""
        return await super().on_tick(counter) or self._is_over()

    def _is_over(self) -> bool:
        service = self.service
        if not service.engine.is_healthy():
            _LOG.error("The engine has died; the server ends.")
            self._engine_died = True
            service.receiving.end(engine_stopped())
            service.running.end(engine_stopped())
            return True
        if self._drains_since_s is None:
            return False
        # Else who sends a body slowly would be waited for, only to be refused.
        service.receiving.end(service.refusal())
        settings = service.settings
        drained_s = time.monotonic() - self._drains_since_s
        is_idle = not service.admission.num_active and not self.server_state.tasks
        if drained_s >= settings.drain_notice_s and is_idle:
            return True
        grace_s = max(settings.drain_grace_s, settings.drain_notice_s)
        if drained_s < grace_s and not self._is_hurried:
            return False
        message = "The server ends and the request took too long to be finished."
        service.running.end(
            overloaded(message, retry_after_s=settings.retry_after_s, code="draining")
        )
        return True
