"""`PageSender`: hands sequences over to a process that decodes, over TCP.

    sender = PageSender("10.0.0.7:8471", fingerprint=engine.fingerprint, secret=secret)
    sender.send(handover).result()

What goes over the connection after the handshake (see `handshake`), ids being the sender's:

    offer {id, handover}      →         a hand-over's description; one at a time
                              ←         grant {id}                there is room for it
    payload {id}, bytes       →         straight from the arrays' memory
    checksums {id, crc32}     →         one for each array
                              ←         accepted {id} or refused {id, reason}
    withdraw {id}             →         instead of the payload

Threads, not asyncio: gigabytes move through blocking calls that release the interpreter's lock, while an event loop that
streams tokens to clients would wake for every buffer's worth. An event loop awaits the future: `asyncio.wrap_future`.

Measured over loopback, hand-overs of 64 arrays of 1 MiB: a gigabyte costs the sender 0.5 s and the receiver 0.6 s of a core,
0.24 s of each for checksums; 0.8 to 1.0 GB/s passed on two cores that had other work too.
"""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import Future
from typing import Any

from trellax.inference.disaggregation.addresses import parse_address
from trellax.inference.disaggregation.codec import is_integer
from trellax.inference.disaggregation.errors import (
    ConnectionLostError,
    HandshakeError,
    ProtocolError,
    RefusedError,
    TransportError,
)
from trellax.inference.disaggregation.handover import HandOver, byte_view, check_fits, describe
from trellax.inference.disaggregation.handshake import Identity, greet, take_steps
from trellax.inference.disaggregation.outbox import Item, Outbox
from trellax.inference.disaggregation.wire import Frame, Wire


class PageSender:
    """The sending end of one connection. When it fails, everything on its way fails, and a new one must be made."""

    def __init__(
        self,
        address: str,
        *,
        fingerprint: str,
        secret: bytes | None = None,
        max_waiting: int = 8,
        connect_timeout: float = 5.0,
        io_timeout: float = 30.0,
        max_header_bytes: int = 1 << 20,
    ):
        """Connects.

        Args:
            address: "host:port" of a `PageReceiver`.
            fingerprint: of the model, its weights and the layout of its cache; the receiver's must be the same.
            secret: known to both ends, or to none.
            max_waiting: hand-overs that may wait for room before `send` blocks.
            connect_timeout: seconds to connect, and for each answer of the handshake.
            io_timeout: seconds that the receiver may let pass without reading.
            max_header_bytes: of what is read at a time.

        Raises:
            ConnectionLostError: if nobody answers.
            HandshakeError: if the receiver is not one for this sender.
        """
        self._wire = _connect(address, connect_timeout, io_timeout)
        try:
            identity = Identity(fingerprint, secret)
            welcome = take_steps(greet(identity), self._wire, timeout=connect_timeout)
            self._capacity_bytes = _limit(welcome, "capacity_bytes")
            self._max_header_bytes = _limit(welcome, "max_header_bytes")
        except TransportError:
            self._wire.close()
            raise
        self._wire.max_header_bytes = max_header_bytes
        self._address = address
        self._outbox = Outbox(max_waiting=max_waiting)
        threads = {"write": self._write, "read": self._read}
        self._threads = [
            threading.Thread(target=run, name=f"page-sender-{name}", daemon=True)
            for name, run in threads.items()
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_closed(self) -> bool:
        """As of `Sender`."""
        return self._outbox.is_closed

    def send(self, handover: HandOver, *, timeout: float | None = None) -> Future[None]:
        """As `Sender.send`."""
        check_fits(handover, self._capacity_bytes)
        _check_header(handover, self._max_header_bytes)
        return self._outbox.put(handover, timeout=timeout).future

    def close(self, *, timeout: float = 10.0) -> None:
        """As `Sender.close`."""
        self._outbox.await_empty(timeout=timeout)
        self._end("The sender is closed.")
        for thread in self._threads:
            thread.join()

    def _end(self, reason: str) -> None:
        self._outbox.close(reason)
        self._wire.shut_down()

    def _write(self) -> None:
        try:
            while item := self._outbox.next_waiting():
                self._hand_over(item)
        except ConnectionLostError as error:
            self._end(f"{self._address}: {error}")

    def _hand_over(self, item: Item) -> None:
        self._wire.write("offer", id=item.id, handover=describe(item.handover))
        if self._outbox.await_grant(item):
            views = [byte_view(array) for array in item.handover.arrays.values()]
            self._wire.write_payload(views, id=item.id)
        else:
            self._wire.write("withdraw", id=item.id)

    def _read(self) -> None:
        try:
            while frame := self._wire.read():
                self._take(frame)
            reason = self._wire.failure or "The receiver hung up."
        except TransportError as error:
            reason = str(error)
        self._end(f"{self._address}: {reason}")
        self._wire.close()

    def _take(self, frame: Frame) -> None:
        match frame:
            case {"kind": "grant", "id": int(item_id)}:
                self._outbox.grant(item_id)
            case {"kind": "accepted", "id": int(item_id)}:
                self._outbox.finish(item_id, None)
            case {"kind": "refused", "id": int(item_id), "reason": str(reason)}:
                self._outbox.finish(item_id, RefusedError(f"{self._address} refused: {reason}"))
            case _:
                raise ProtocolError(f"The receiver sent an unknown frame {frame['kind'][:50]!r}.")


def _connect(address: str, connect_timeout: float, io_timeout: float) -> Wire:
    try:
        sock = socket.create_connection(parse_address(address), timeout=connect_timeout)
    except OSError as error:
        raise ConnectionLostError(f"{address}: no receiver answers: {error}.") from error
    return Wire(sock, io_timeout=io_timeout)


def _limit(welcome: Frame, name: str) -> int:
    limit: Any = welcome.get(name)
    if not is_integer(limit):
        raise HandshakeError(f"The receiver's welcome has no {name}.")
    return int(limit)


def _check_header(handover: HandOver, max_header_bytes: int) -> None:
    # Here and not when it is sent: a header that the receiver refuses would end the connection for all.
    num_bytes = len(json.dumps(describe(handover))) + 100  # The frame's other fields.
    if num_bytes > max_header_bytes:
        raise ValueError(
            f"The request {handover.request.id!r} has {num_bytes} bytes as JSON and the receiver reads "
            f"{max_header_bytes}; give it larger max_header_bytes."
        )
