"""`PageReceiver`: takes sequences over from processes that prefill. `sender` has the protocol.

    receiver = PageReceiver("0.0.0.0:8471", fingerprint=engine.fingerprint, capacity_bytes=4 << 30)
    delivery = receiver.receive(); engine.insert(delivery.handover); delivery.accept()

One thread listens, one more for each connection reads straight into the arrays of its hand-over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from typing import Any

from trellax.inference.disaggregation.addresses import format_address, parse_address
from trellax.inference.disaggregation.delivery import Claim, Delivery, Inbox, Room
from trellax.inference.disaggregation.errors import (
    ConnectionLostError,
    ProtocolError,
    TransportError,
)
from trellax.inference.disaggregation.handover import Description, HandOver, byte_view
from trellax.inference.disaggregation.handshake import Identity, admit, take_steps
from trellax.inference.disaggregation.wire import Frame, Wire


class PageReceiver:
    """Listens for `PageSender`s; all share its room."""

    def __init__(
        self,
        bind: str = "127.0.0.1:0",
        *,
        fingerprint: str,
        secret: bytes | None = None,
        capacity_bytes: int,
        max_connections: int = 64,
        io_timeout: float = 30.0,
        max_header_bytes: int = 64 << 20,
    ):
        """Begins to listen.

        Args:
            bind: "host:port" to listen at; port 0 takes a free one.
            fingerprint: of the model, its weights and the layout of its cache; senders must have the same.
            secret: known to both ends, or to none.
            capacity_bytes: what hand-overs may take up from the moment their bytes may come until they are accepted.
            max_connections: further ones are hung up on.
            io_timeout: seconds that a sender may let pass in the middle of a message, or for each MiB of an array.
            max_header_bytes: of what is read besides arrays, each time.

        Raises:
            OSError: if it cannot listen there.
        """
        self._identity = Identity(fingerprint, secret)
        self._room = Room(capacity_bytes)
        self._inbox = Inbox()
        self._io_timeout = io_timeout
        self._max_header_bytes = max_header_bytes
        self._max_connections = max_connections
        self._connections: dict[Wire, threading.Thread] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        host, port = parse_address(bind)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self._address = format_address(*self._listener.getsockname()[:2])
        self._thread = threading.Thread(target=self._listen, name="page-receiver", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._address

    @property
    def used_bytes(self) -> int:
        """What is granted to hand-overs that are not accepted yet."""
        return self._room.used_bytes

    def receive(self, *, timeout: float | None = None) -> Delivery:
        """As `Receiver.receive`."""
        return self._inbox.take(timeout=timeout)

    def close(self) -> None:
        """As `Receiver.close`."""
        with self._lock:
            self._is_closed = True
            connections = list(self._connections.items())
        # Closing alone does not wake the thread that waits for connections.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self._inbox.close()
        for wire, _ in connections:
            wire.shut_down()
        for _, thread in connections:
            thread.join()

    def _listen(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self._is_closed:
                    return
                time.sleep(0.05)  # A connection that ended early, or no file numbers left.
                continue
            self._start_serving(Wire(sock, io_timeout=self._io_timeout))

    def _start_serving(self, wire: Wire) -> None:
        thread = threading.Thread(
            target=self._serve, args=(wire,), name="page-receiver-connection", daemon=True
        )
        with self._lock:
            is_welcome = not self._is_closed and len(self._connections) < self._max_connections
            if is_welcome:
                self._connections[wire] = thread
                thread.start()
        if not is_welcome:
            wire.close()

    def _serve(self, wire: Wire) -> None:
        connection = _Connection(wire, self._room, self._inbox)
        try:
            welcome = {
                "capacity_bytes": self._room.capacity_bytes,
                "max_header_bytes": self._max_header_bytes,
            }
            steps = admit(self._identity, welcome=welcome)
            take_steps(steps, wire, timeout=self._io_timeout)
            wire.max_header_bytes = self._max_header_bytes
            while frame := wire.read():
                connection.take(frame)
        except TransportError:
            pass  # The sender sees it too, and whoever waits for its hand-over.
        finally:
            connection.end()
            wire.close()
            with self._lock:
                del self._connections[wire]


@dataclasses.dataclass
class _Offer:
    id: int
    description: Description
    claim: Claim


class _Connection:
    """What one sender has under way: an offer, and deliveries that are not accepted."""

    def __init__(self, wire: Wire, room: Room, inbox: Inbox):
        self._wire = wire
        self._room = room
        self._inbox = inbox
        self._offer: _Offer | None = None
        self._deliveries: dict[Delivery, Claim] = {}

    def take(self, frame: Frame) -> None:
        """Does what a frame asks for."""
        match frame:
            case {"kind": "offer", "id": int(offer_id), "handover": dict(description)}:
                self._take_offer(offer_id, description)
            case {"kind": "payload", "id": int(offer_id)}:
                self._take_payload(offer_id)
            case {"kind": "withdraw", "id": int(offer_id)}:
                self._withdraw(offer_id)
            case _:
                raise ProtocolError(f"A sender sent an unknown frame {frame['kind'][:50]!r}.")

    def end(self) -> None:
        """Gives back what the sender, who has gone, had taken up, but for what is being used."""
        if self._offer is not None:
            self._room.give_up(self._offer.claim)
        for delivery, claim in list(self._deliveries.items()):
            if self._inbox.discard(delivery):
                self._room.give_up(claim)

    def _take_offer(self, offer_id: int, data: Any) -> None:
        if self._offer is not None:
            raise ProtocolError("A sender made an offer while another one stood.")
        try:
            description = Description.parse(data)
            capacity_bytes = self._room.capacity_bytes
            if description.num_bytes > capacity_bytes:
                raise ValueError(
                    f"{description.num_bytes} bytes; there is room for {capacity_bytes}"
                )
        except ValueError as error:
            self._wire.write("refused", id=offer_id, reason=f"The hand-over is malformed: {error}.")
            return
        claim = Claim(description.num_bytes, lambda: self._grant(offer))
        offer = self._offer = _Offer(offer_id, description, claim)
        self._room.ask(claim)

    def _grant(self, offer: _Offer) -> None:
        # In the thread of whoever made room, which a sender that has gone must not disturb.
        with contextlib.suppress(ConnectionLostError):
            self._wire.write("grant", id=offer.id)

    def _take_payload(self, offer_id: int) -> None:
        offer = self._offer
        if offer is None or offer.id != offer_id or offer.claim.state != "granted":
            raise ProtocolError("A sender sent a payload that was not granted.")
        handover = offer.description.allocate()
        views = [byte_view(array) for array in handover.arrays.values()]
        checksums = self._wire.read_payload(views)
        frame = self._wire.read(patience=self._wire.io_timeout)
        self._offer = None
        if frame is None or frame["kind"] != "checksums":
            self._room.give_up(offer.claim)
            raise ProtocolError("A sender sent no checksums after a payload.")
        if frame.get("crc32") != checksums:
            self._room.give_up(offer.claim)
            reason = "Its arrays came damaged: their checksums differ."
            self._wire.write("refused", id=offer.id, reason=reason)
            return
        self._deliver(offer, handover)

    def _deliver(self, offer: _Offer, handover: HandOver) -> None:
        def settle(reason: str | None) -> None:
            self._deliveries.pop(delivery, None)
            self._room.give_up(offer.claim)
            # A sender that has gone has failed the hand-over itself.
            with contextlib.suppress(ConnectionLostError):
                if reason is None:
                    self._wire.write("accepted", id=offer.id)
                else:
                    self._wire.write("refused", id=offer.id, reason=reason)

        delivery = Delivery(handover, settle)
        self._deliveries[delivery] = offer.claim
        self._inbox.put(delivery)

    def _withdraw(self, offer_id: int) -> None:
        if self._offer is not None and self._offer.id == offer_id:
            self._room.give_up(self._offer.claim)
            self._offer = None
