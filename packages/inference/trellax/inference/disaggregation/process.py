"""`run_worker`: a process that is one worker, until a signal ends it; `router` has the process that clients talk to.

    exit_code = run_worker("prefill", engine, layout, settings, fingerprint=weights_fingerprint)

Routers come to the control port (`WorkerServer`), pages to a decode worker's page port (`PageReceiver`), and probes to the
HTTP port: `/health` and `/ready` answer 200 while new work is taken, else 503; `/metrics` tells Prometheus of the engine, so that
each role is scaled by its own load.

SIGTERM or Ctrl-C begins the end: routers are told to go elsewhere, what runs may finish; a second signal ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Literal

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trellax.inference.disaggregation.addresses import format_address
from trellax.inference.disaggregation.layout import StateLayout
from trellax.inference.disaggregation.local_decode import LocalDecodeWorker
from trellax.inference.disaggregation.local_prefill import LocalPrefillWorker
from trellax.inference.disaggregation.receiver import PageReceiver
from trellax.inference.disaggregation.role import EngineRole
from trellax.inference.disaggregation.sender import PageSender
from trellax.inference.disaggregation.worker_server import WorkerServer
from trellax.inference.engine import Engine
from trellax.inference.server import EngineMetrics

WorkerRole = Literal["prefill", "decode"]


@dataclasses.dataclass(frozen=True)
class WorkerSettings:
    """
    Attributes:
        host: address to listen at; "0.0.0.0" for all of the machine's.
        http_port: for probes. 0 takes a free port, here and below.
        control_port: for routers.
        page_port: for prefill workers; of a decode worker only.
        max_running: requests at once.
        room_bytes: of host memory for pages on their way.
        secret: that all workers and routers know; None where the network is trusted.
        drain_grace_s: what runs may take so long to finish after SIGTERM.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    control_port: int = 8470
    page_port: int = 8471
    max_running: int = 32
    room_bytes: int = 4 << 30
    secret: bytes | None = None
    drain_grace_s: float = 30.0

    def check_room(self, layout: StateLayout) -> None:
        """Raises a `ValueError` if the longest sequence finds no room."""
        if layout.most_handover_bytes > self.room_bytes:
            raise ValueError(
                f"There is room for {self.room_bytes / 2**30:.3g} GiB of pages on their way, and a sequence of "
                f"{layout.max_length} tokens has {layout.most_handover_bytes / 2**30:.3g} GiB; give it at least so much."
            )


def run_worker(
    role: WorkerRole,
    engine: Engine,
    layout: StateLayout,
    settings: WorkerSettings,
    *,
    fingerprint: str,
    on_start: Callable[[str, str], None] | None = None,
) -> int:
    """Serves an engine to routers until a signal ends it; returns the exit code of the process.

    Args:
        role: what the engine does; of "prefill" its core was built with `prefill_only`.
        engine: computes; stays the caller's.
        layout: of its core.
        settings: of the process.
        fingerprint: of the model and its weights. Routers must have the same, and other workers this and the same layout.
        on_start: is called, with the addresses for routers and for probes, once they can be used.

    Returns:
        0 after a signal, 1 if the engine died or the address for probes cannot be had.

    Raises:
        ValueError: if the longest sequence finds no room in `room_bytes`.
        OSError: if another address cannot be had.
    """
    settings.check_room(layout)
    return asyncio.run(_serve(role, engine, layout, settings, fingerprint, on_start))


async def _serve(
    role: WorkerRole,
    engine: Engine,
    layout: StateLayout,
    settings: WorkerSettings,
    fingerprint: str,
    on_start: Callable[[str, str], None] | None,
) -> int:
    computing, pages = EngineRole(engine, layout), f"{fingerprint} {layout.fingerprint}"
    async with contextlib.AsyncExitStack() as stack:
        worker: LocalPrefillWorker | LocalDecodeWorker
        if role == "prefill":
            worker = _prefill_worker(computing, settings, pages)
            stack.push_async_callback(worker.close)
        else:
            worker = await stack.enter_async_context(_decode_worker(computing, settings, pages))
        server = await WorkerServer.start(
            worker,
            format_address(settings.host, settings.control_port),
            fingerprint=fingerprint,
            secret=settings.secret,
        )
        stack.push_async_callback(server.close)
        probes = _Probes(server, engine, settings, on_start)
        try:
            await probes.serve()
        except SystemExit:  # uvicorn's way to say that the address is taken; it has logged why.
            return 1
        return 1 if probes.engine_died else 0


def _prefill_worker(
    engine: EngineRole, settings: WorkerSettings, fingerprint: str
) -> LocalPrefillWorker:
    return LocalPrefillWorker(
        engine,
        name="prefill",
        max_running=settings.max_running,
        room_bytes=settings.room_bytes,
        connect_fn=lambda target: PageSender(
            target, fingerprint=fingerprint, secret=settings.secret
        ),
    )


def _decode_worker(
    engine: EngineRole, settings: WorkerSettings, fingerprint: str
) -> LocalDecodeWorker:
    receiver = PageReceiver(
        format_address(settings.host, settings.page_port),
        fingerprint=fingerprint,
        secret=settings.secret,
        capacity_bytes=settings.room_bytes,
    )
    return LocalDecodeWorker(
        engine,
        receiver,
        name="decode",
        max_running=settings.max_running,
        target=receiver.address,
    )


class _Probes(uvicorn.Server):
    """Answers probes, and ends the process: in order after a signal, at once if the engine dies."""

    def __init__(
        self,
        server: WorkerServer,
        engine: Engine,
        settings: WorkerSettings,
        on_start: Callable[[str, str], None] | None,
    ):
        self._worker_server, self._engine, self._on_start = server, engine, on_start
        self._drain_grace_s = settings.drain_grace_s
        self._drains_since_s: float | None = None
        self._is_hurried = False
        self.engine_died = False
        self._metrics = EngineMetrics(engine)
        routes = [Route(path, self._answer) for path in ("/health", "/ready")]
        routes.append(Route("/metrics", self._tell))
        super().__init__(
            uvicorn.Config(
                Starlette(routes=routes),
                host=settings.host,
                port=settings.http_port,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )

    async def _answer(self, http: Request) -> JSONResponse:
        if self._drains_since_s is not None or not self._engine.is_healthy():
            return JSONResponse({"status": "ending"}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def _tell(self, http: Request) -> Response:
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, and says so."""
        await super().startup(sockets)
        if self._on_start is not None:
            bound = self.servers[0].sockets[0].getsockname()
            self._on_start(self._worker_server.address, format_address(*bound[:2]))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drains at the first signal and waits no longer at the second."""
        self._is_hurried = self._drains_since_s is not None
        if self._drains_since_s is None:
            self._drains_since_s = time.monotonic()
            self._worker_server.drain()

    async def on_tick(self, counter: int) -> bool:
        """Returns whether to end now; uvicorn asks ten times a second."""
        return await super().on_tick(counter) or self._is_over()

    def _is_over(self) -> bool:
        if not self._engine.is_healthy():
            logging.getLogger(__name__).error("The engine has died; the worker ends.")
            self.engine_died = True
            return True
        if self._drains_since_s is None:
            return False
        is_late = time.monotonic() - self._drains_since_s >= self._drain_grace_s
        return is_late or self._is_hurried or not self._worker_server.num_running
