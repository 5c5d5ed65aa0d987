"""`PageChannel`: hand-overs between two engines of one process. Nothing is copied.

channel = PageChannel(capacity_bytes=1 << 30)
future = channel.send(handover); delivery = channel.receive(); delivery.accept()
"""

from __future__ import annotations

from concurrent.futures import Future

from trellax.inference.disaggregation.delivery import Claim, Delivery, Inbox, Room
from trellax.inference.disaggregation.errors import RefusedError
from trellax.inference.disaggregation.handover import HandOver, check_fits
from trellax.inference.disaggregation.outbox import Item, Outbox


class PageChannel:
    """Both ends of a transport: a `Sender` and a `Receiver`."""

    def __init__(self, *, capacity_bytes: int, max_waiting: int = 8):
        """
        Args:
            capacity_bytes: what hand-overs may take up until they are accepted.
            max_waiting: hand-overs that may wait for room before `send` blocks.
        """
        self._room = Room(capacity_bytes)
        self._outbox = Outbox(max_waiting=max_waiting)
        self._inbox = Inbox()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._outbox.is_closed

    def send(self, handover: HandOver, *, timeout: float | None = None) -> Future[None]:
        """As `Sender.send`."""
        check_fits(handover, self._room.capacity_bytes)
        item = self._outbox.put(handover, timeout=timeout)
        claim = Claim(handover.num_bytes, lambda: self._deliver(item, claim))
        # One that is cancelled while it waits, or fails, leaves its place in the queue.
        item.future.add_done_callback(lambda future: self._room.give_up(claim))
        self._room.ask(claim)
        return item.future

    def receive(self, *, timeout: float | None = None) -> Delivery:
        """As `Receiver.receive`."""
        return self._inbox.take(timeout=timeout)

    def close(self, *, timeout: float = 0.0) -> None:
        """Ends both ends, when all is accepted or after `timeout` seconds."""
        self._outbox.await_empty(timeout=timeout)
        self._outbox.close("The channel is closed.")
        self._inbox.close()

    def _deliver(self, item: Item, claim: Claim) -> None:
        if not self._outbox.start(item):
            return

        def settle(reason: str | None) -> None:
            self._room.give_up(claim)
            self._outbox.finish(item.id, None if reason is None else RefusedError(reason))

        self._inbox.put(Delivery(item.handover, settle))
