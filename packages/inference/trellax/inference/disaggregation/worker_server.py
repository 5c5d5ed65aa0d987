"""`WorkerServer`: lets routers of other processes use a worker of this one.

    server = await WorkerServer.start(worker, "0.0.0.0:8470", fingerprint=fingerprint)

After the handshake of `handshake`, whose welcome has the worker's `max_running` and where it takes pages:

    prefill {call, request, earlier_ids, target}  →
    resume {call, request_id}                     →
    cancel {call}                                 →
                                                  ←     piece {call, output}, any number
                                                  ←     end {call} or error {call, error, message, param}
                                                  ←     gauges {…}, every second

A server that drains ends each new call with an error, "unreachable", and goes on with those it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable
from typing import Any

from trellax.inference.disaggregation.addresses import format_address, parse_address
from trellax.inference.disaggregation.codec import from_json, to_json
from trellax.inference.disaggregation.errors import (
    ProtocolError,
    TransportError,
    UnreachableError,
    WorkerError,
)
from trellax.inference.disaggregation.handshake import Identity, admit
from trellax.inference.disaggregation.link import Link
from trellax.inference.disaggregation.wire import Frame
from trellax.inference.disaggregation.workers import DecodeWorker, PrefillWorker
from trellax.inference.requests import Output, Request, RequestError

_HANDSHAKE_S = 10.0
_GAUGES_S = 1.0


class WorkerServer:
    """Serves one worker, of either role, to any number of routers; `start` makes one.

    Attributes:
        address: where it listens.
    """

    def __init__(self, worker: PrefillWorker | DecodeWorker, identity: Identity):
        self._worker = worker
        self._identity = identity
        self._connections: dict[Link, asyncio.Task[None]] = {}
        self._calls: set[_Calls] = set()
        self._is_draining = False
        self._server: asyncio.Server
        self.address = ""

    @classmethod
    async def start(
        cls,
        worker: PrefillWorker | DecodeWorker,
        bind: str = "127.0.0.1:0",
        *,
        fingerprint: str,
        secret: bytes | None = None,
    ) -> WorkerServer:
        """Begins to listen at "host:port"; port 0 takes a free one.

        Args:
            worker: does the work; stays the caller's.
            bind: where to listen.
            fingerprint: of the model, its weights and the layout of its cache; routers must have the same.
            secret: known to both ends, or to none.

        Raises:
            OSError: if it cannot listen there.
        """
        server = cls(worker, Identity(fingerprint, secret))
        host, port = parse_address(bind)
        server._server = await asyncio.start_server(server._serve, host, port)
        server.address = format_address(*server._server.sockets[0].getsockname()[:2])
        return server

    @property
    def num_running(self) -> int:
        """Calls of all routers."""
        return sum(calls.num_running for calls in self._calls)

    def drain(self) -> None:
        """Takes no new calls; what runs goes on."""
        self._is_draining = True

    async def close(self) -> None:
        """Hangs up on all routers; what runs for them is aborted."""
        self._server.close()
        connections = dict(self._connections)
        for link in connections:
            link.hang_up()
        await asyncio.gather(*connections.values())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link, task = Link(reader, writer), asyncio.current_task()
        assert task is not None
        self._connections[link] = task
        try:
            # Whoever is refused, or goes, sees it at the other end.
            with contextlib.suppress(TransportError):
                steps = admit(self._identity, welcome=await self._welcome())
                await link.take_steps(steps, timeout=_HANDSHAKE_S)
                await self._serve_calls(link)
        finally:
            del self._connections[link]
            await link.close()

    async def _serve_calls(self, link: Link) -> None:
        calls = _Calls(self._worker, link, lambda: self._is_draining)
        self._calls.add(calls)
        try:
            await calls.serve()
        finally:
            self._calls.discard(calls)

    async def _welcome(self) -> Frame:
        welcome: Frame = {"max_running": self._worker.max_running, "page_port": None}
        if hasattr(self._worker, "target"):
            welcome["page_port"] = parse_address(await self._worker.target())[1]
        return welcome


class _Calls:
    """What one router has running."""

    def __init__(self, worker: Any, link: Link, is_draining_fn: Callable[[], bool]):
        self._worker = worker
        self._link = link
        self._is_draining_fn = is_draining_fn
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def num_running(self) -> int:
        return len(self._tasks)

    async def serve(self) -> None:
        """Does what the router asks for until it hangs up, then aborts what is left."""
        gauges = asyncio.create_task(self._send_gauges())
        try:
            while frame := await self._link.read():
                self._take(frame)
        finally:
            tasks = [gauges, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, frame: Frame) -> None:
        call = frame.get("call")
        if not isinstance(call, int):
            raise ProtocolError("A router sent a frame that belongs to no call.")
        if frame["kind"] == "cancel":
            if task := self._tasks.get(call):
                task.cancel()
        elif call in self._tasks:
            raise ProtocolError("A router used the number of a call twice.")
        else:
            task = self._tasks[call] = asyncio.create_task(self._answer(call, frame))
            task.add_done_callback(lambda task: self._tasks.pop(call))

    async def _answer(self, call: int, frame: Frame) -> None:
        with contextlib.suppress(TransportError):  # The router has gone.
            try:
                async with contextlib.aclosing(self._pieces(frame)) as pieces:
                    async for piece in pieces:
                        await self._link.write("piece", call=call, output=to_json(piece))
                await self._link.write("end", call=call)
            except RequestError as error:
                await self._fail(call, "request", str(error), param=error.param)
            except UnreachableError as error:
                await self._fail(call, "unreachable", str(error))
            except TransportError as error:
                await self._fail(call, "transport", str(error))
            except Exception as error:  # The engine's, whatever it is: the router tries elsewhere.
                await self._fail(call, "worker", f"{type(error).__name__}: {error}")

    def _pieces(self, frame: Frame) -> AsyncGenerator[Output, None]:
        if self._is_draining_fn():
            raise UnreachableError("it ends and takes nothing new")
        match frame:
            case {
                "kind": "prefill",
                "request": dict(data),
                "earlier_ids": list(earlier_ids),
                "target": str(target),
            } if hasattr(self._worker, "prefill"):
                request = from_json(Request, data)
                return self._worker.prefill(request, earlier_ids=tuple(earlier_ids), target=target)
            case {"kind": "resume", "request_id": str(request_id)} if hasattr(
                self._worker, "resume"
            ):
                return self._worker.resume(request_id)
        raise WorkerError(
            f"This worker has no call {frame['kind'][:50]!r}; is it of the other role?"
        )

    async def _fail(self, call: int, error: str, message: str, param: str | None = None) -> None:
        await self._link.write("error", call=call, error=error, message=message, param=param)

    async def _send_gauges(self) -> None:
        while True:
            self._link.send("gauges", **dataclasses.asdict(self._worker.gauges()))
            await asyncio.sleep(_GAUGES_S)
