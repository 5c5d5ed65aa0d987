"""`guarded_protocol`: uvicorn's HTTP protocol, with limits on connections that ask for nothing.

    uvicorn.Config(app, http=guarded_protocol(limits))

Clients that open connections and send their headers slowly, without end or not at all are hung up on, and so
are those that do not take their answers. The time for bodies is kept where they are read.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from trellax.inference.server.settings import Limits


def guarded_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Returns the class of protocols that uvicorn makes one of for each connection."""

    class GuardedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        """uvicorn's protocol, between whose requests time and bytes are counted."""

        _deadline: asyncio.TimerHandle | None = None
        _stall: asyncio.TimerHandle | None = None
        _num_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
                return
            self._await_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            self._stop_stall()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            self._stall = self.loop.call_later(limits.stall_s, self.transport.abort)
            super().pause_writing()

        def resume_writing(self) -> None:
            self._stop_stall()
            super().resume_writing()

        def data_received(self, data: bytes) -> None:
            was_idle = self._is_idle()
            if was_idle and self._deadline is None:
                self._await_headers()
            super().data_received(data)
            if not self._is_idle():
                self._stop_waiting()
            elif was_idle:
                self._num_bytes += len(data)
                if self._num_bytes > limits.header_bytes:
                    self.transport.close()

        def _is_idle(self) -> bool:
            """Returns whether no request is complete enough to be answered."""
            return self.cycle is None or self.cycle.response_complete

        def _await_headers(self) -> None:
            self._num_bytes = 0
            self._deadline = self.loop.call_later(limits.header_s, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _stop_stall(self) -> None:
            if self._stall is not None:
                self._stall.cancel()
                self._stall = None

    return GuardedProtocol
