"""What both transports, over sockets and within a process, have in common: `Sender`, `Receiver`, `Delivery`, `Room`.

    future = sender.send(handover)                  # prefill: done once the other side has accepted
    delivery = receiver.receive(); delivery.accept()  # decode

Back-pressure is by bytes. A receiver has room for so many; a hand-over is only sent when there is room for all of it, in the
order of asking over all senders, and takes it up until it is accepted or refused. So a slow receiver holds up its senders,
and no memory grows anywhere.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal, Protocol

from trellax.inference.disaggregation.errors import ConnectionLostError
from trellax.inference.disaggregation.handover import HandOver


class Sender(Protocol):
    """The prefill side of a transport."""

    def send(self, handover: HandOver, *, timeout: float | None = None) -> Future[None]:
        """Queues a hand-over; it and its arrays must stay as they are until the future is done.

        The future is done when the receiver has accepted. Until bytes are on their way it can be cancelled. The call
        blocks while the queue is full.

        Raises:
            ValueError: if it can never be sent.
            TimeoutError: if the queue stays full for `timeout` seconds.
            TransportError: if the transport has ended. Futures fail with this too.
        """
        ...

    @property
    def is_closed(self) -> bool:
        """Whether it has ended: use a new one."""
        ...

    def close(self, *, timeout: float = 10.0) -> None:
        """Ends it when all is accepted, or after `timeout` seconds, which fails what is left."""
        ...


class Receiver(Protocol):
    """The decode side of a transport."""

    def receive(self, *, timeout: float | None = None) -> Delivery:
        """Returns the next hand-over that has come in whole.

        Raises:
            TimeoutError: if none comes in `timeout` seconds.
            TransportError: if the receiver is closed.
        """
        ...

    def close(self) -> None:
        """Ends it; what is not accepted fails at its sender."""
        ...


class Delivery:
    """A hand-over that has come in; it takes up room until one of the two methods is called, once."""

    def __init__(self, handover: HandOver, settle_fn: Callable[[str | None], None]):
        """
        Args:
            handover: what has come.
            settle_fn: called with None if it is accepted, else with the reason why not.
        """
        self.handover = handover
        self._settle_fn = settle_fn

    def accept(self) -> None:
        """Says that the arrays have been copied and the sender may forget the sequence."""
        self._settle_fn(None)

    def refuse(self, reason: str) -> None:
        """Has the sender's future fail with a `RefusedError`."""
        self._settle_fn(reason)


class Inbox:
    """Deliveries that nobody has received yet; `Room` bounds them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deliveries: collections.deque[Delivery] = collections.deque()
        self._is_closed = False

    def put(self, delivery: Delivery) -> None:
        """Adds one; refuses it if the box is closed."""
        with self._changed:
            is_closed = self._is_closed
            if not is_closed:
                self._deliveries.append(delivery)
                self._changed.notify()
        if is_closed:
            delivery.refuse("The receiver is closed.")

    def take(self, *, timeout: float | None) -> Delivery:
        """Removes the oldest; as `Receiver.receive`."""
        with self._changed:
            has_come = self._changed.wait_for(lambda: self._deliveries or self._is_closed, timeout)
            if not has_come:
                raise TimeoutError(f"No hand-over has come in {timeout:g} s.")
            if self._is_closed:
                raise ConnectionLostError("The receiver is closed.")
            return self._deliveries.popleft()

    def discard(self, delivery: Delivery) -> bool:
        """Removes one whose sender has gone; False if it was received already."""
        with self._changed:
            if delivery not in self._deliveries:
                return False
            self._deliveries.remove(delivery)
            return True

    def close(self) -> None:
        """Refuses what is in it."""
        with self._changed:
            self._is_closed = True
            deliveries = list(self._deliveries)
            self._deliveries.clear()
            self._changed.notify_all()
        for delivery in deliveries:
            delivery.refuse("The receiver is closed.")


class Claim:
    """A share of a `Room`: waiting, then granted, then given up."""

    def __init__(self, num_bytes: int, granted_fn: Callable[[], None]):
        """
        Args:
            num_bytes: how much.
            granted_fn: called once it is granted, by whatever thread has made room for it.
        """
        self.num_bytes = num_bytes
        self.granted_fn = granted_fn
        self.state: Literal["waiting", "granted", "given up"] = "waiting"


class Room:
    """Bytes for hand-overs, granted in the order of asking, whoever asks; thread-safe."""

    def __init__(self, capacity_bytes: int):
        self.capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._free_bytes = capacity_bytes
        self._waiting: collections.deque[Claim] = collections.deque()

    @property
    def used_bytes(self) -> int:
        """What is granted and not given up."""
        return self.capacity_bytes - self._free_bytes

    def ask(self, claim: Claim) -> None:
        """Lets a new claim wait for its turn, which may have come when this returns."""
        assert claim.num_bytes <= self.capacity_bytes, "this could never be granted"
        with self._lock:
            self._waiting.append(claim)
        self._grant()

    def give_up(self, claim: Claim) -> None:
        """Returns what a claim has, or stops its waiting; it may have been given up before."""
        with self._lock:
            if claim.state == "granted":
                self._free_bytes += claim.num_bytes
            elif claim.state == "waiting":
                self._waiting.remove(claim)
            claim.state = "given up"
        self._grant()

    def _grant(self) -> None:
        granted = []
        with self._lock:
            while self._waiting and self._waiting[0].num_bytes <= self._free_bytes:
                claim = self._waiting.popleft()
                claim.state = "granted"
                self._free_bytes -= claim.num_bytes
                granted.append(claim)
        for claim in granted:  # Outside of the lock: the functions write to sockets.
            claim.granted_fn()
