"""`RemotePrefillWorker` and `RemoteDecodeWorker`: workers of other processes, behind a `WorkerServer`.

    worker = RemotePrefillWorker("10.0.0.7:8470", fingerprint=fingerprint, secret=secret)

They connect when they are first used, and again after a connection was lost, which fails what was running over it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from typing import Any

from trellax.inference.disaggregation.addresses import format_address, parse_address
from trellax.inference.disaggregation.codec import from_json, is_integer, to_json
from trellax.inference.disaggregation.errors import (
    ProtocolError,
    TransportError,
    UnreachableError,
    WorkerError,
)
from trellax.inference.disaggregation.handshake import Identity, greet
from trellax.inference.disaggregation.link import Link
from trellax.inference.disaggregation.wire import Frame
from trellax.inference.disaggregation.workers import Gauges
from trellax.inference.requests import Output, Request, RequestError

_ERRORS = {"transport": TransportError, "unreachable": UnreachableError}
_LOST: Frame = {"kind": "error", "error": "worker", "message": "the connection was lost"}


class _RemoteWorker:
    """What both roles have: a connection, and calls over it."""

    def __init__(
        self,
        address: str,
        *,
        fingerprint: str,
        secret: bytes | None = None,
        connect_timeout: float = 5.0,
    ):
        """
        Args:
            address: "host:port" of a `WorkerServer`; the worker's name too.
            fingerprint: of the model, its weights and the layout of its cache; the worker's must be the same.
            secret: known to both ends, or to none.
            connect_timeout: seconds to connect, and for each answer of the handshake.
        """
        self.name = address
        self._identity = Identity(fingerprint, secret)
        self._connect_timeout = connect_timeout
        self._connecting = asyncio.Lock()
        self._link: Link | None = None
        self._reading: asyncio.Task[None] | None = None
        self._welcome: Frame = {"max_running": 1}
        self._gauges = Gauges()
        self._ids = itertools.count(1)
        self._calls: dict[int, asyncio.Queue[Frame]] = {}

    @property
    def max_running(self) -> int:
        """What the worker says; one at a time until it has said so."""
        return self._welcome["max_running"]

    def gauges(self) -> Gauges:
        """What the worker told last."""
        return self._gauges

    async def close(self) -> None:
        """Hangs up; what runs fails."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _connected(self) -> Link:
        async with self._connecting:
            if self._link is None:
                try:
                    link = await self._connect()
                except TransportError as error:
                    raise UnreachableError(f"{self.name}: {error}") from error
                self._link = link
                self._reading = asyncio.create_task(self._read(link))
            return self._link

    async def _connect(self) -> Link:
        link = await Link.connect(self.name, timeout=self._connect_timeout)
        try:
            steps = greet(self._identity)
            self._welcome = await link.take_steps(steps, timeout=self._connect_timeout)
            if not is_integer(self._welcome.get("max_running")):
                raise ProtocolError("The worker does not say how much it can run.")
        except BaseException:
            await link.close()
            raise
        return link

    async def _read(self, link: Link) -> None:
        try:
            while frame := await link.read():
                self._take(frame)
        except (TransportError, ValueError):
            pass  # The connection is of no more use, as if it had been lost.
        finally:
            self._link = None
            for call in self._calls.values():
                call.put_nowait(_LOST)
            await link.close()

    def _take(self, frame: Frame) -> None:
        match frame:
            case {"kind": "gauges", **gauges}:
                self._gauges = from_json(Gauges, gauges)
            case {"kind": "piece" | "end" | "error", "call": int(call)}:
                if call in self._calls:  # Else it was cancelled.
                    self._calls[call].put_nowait(frame)
            case _:
                raise ProtocolError(f"A worker sent an unknown frame {frame['kind'][:50]!r}.")

    async def _call(self, kind: str, **fields: Any) -> AsyncGenerator[Output, None]:
        link = await self._connected()
        call = next(self._ids)
        answers = self._calls[call] = asyncio.Queue()
        is_ended = False
        try:
            await self._send(link, kind, call=call, **fields)
            while (frame := await answers.get())["kind"] == "piece":
                yield self._piece(frame)
            is_ended = True
            if frame["kind"] == "error":
                raise self._error(frame)
        finally:
            del self._calls[call]
            if not is_ended:
                link.send("cancel", call=call)

    async def _send(self, link: Link, kind: str, **fields: Any) -> None:
        try:
            await link.write(kind, **fields)
        except TransportError as error:
            raise WorkerError(f"{self.name}: {error}") from error

    def _piece(self, frame: Frame) -> Output:
        try:
            return from_json(Output, frame.get("output"))
        except ValueError as error:
            raise WorkerError(f"{self.name} sent what is no piece: {error}") from error

    def _error(self, frame: Frame) -> Exception:
        message = str(frame.get("message"))
        if frame.get("error") == "request":
            return RequestError(message, param=frame.get("param"))
        kind = _ERRORS.get(str(frame.get("error")), WorkerError)
        return kind(f"{self.name}: {message}")


class RemotePrefillWorker(_RemoteWorker):
    """A `PrefillWorker` elsewhere; its pages go to decode workers directly."""

    def prefill(
        self, request: Request, *, earlier_ids: tuple[int, ...], target: str
    ) -> AsyncGenerator[Output, None]:
        """As `PrefillWorker.prefill`."""
        fields = {"request": to_json(request), "earlier_ids": list(earlier_ids), "target": target}
        return self._call("prefill", **fields)


class RemoteDecodeWorker(_RemoteWorker):
    """A `DecodeWorker` elsewhere."""

    async def target(self) -> str:
        """As `DecodeWorker.target`: the worker's host, and the port at which it takes pages."""
        await self._connected()
        host, _ = parse_address(self.name)
        return format_address(host, self._welcome["page_port"])

    def resume(self, request_id: str) -> AsyncGenerator[Output, None]:
        """As `DecodeWorker.resume`."""
        return self._call("resume", request_id=request_id)
