"""`Outbox`: hand-overs between `send` and acceptance, of which only so many may wait; thread-safe.

item = outbox.put(handover, timeout=None)         # blocks while the box is full
if outbox.start(item): ...                        # False: it was cancelled
outbox.finish(item.id, None)                      # its future is done
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import threading
from concurrent.futures import Future

from trellax.inference.disaggregation.errors import ConnectionLostError, TransportError
from trellax.inference.disaggregation.handover import HandOver


@dataclasses.dataclass(eq=False)
class Item:
    """A hand-over on its way.

    Attributes:
        id: of the item, within its box.
        handover: what travels.
        future: what the caller of `send` holds.
        is_granted: whether the receiver has room for it.
    """

    id: int
    handover: HandOver
    future: Future[None]
    is_granted: bool = False


class Outbox:
    """What a sender has taken on and is not rid of yet."""

    def __init__(self, *, max_waiting: int):
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._waiting: collections.deque[Item] = collections.deque()
        self._started: dict[int, Item] = {}
        self._ids = itertools.count(1)
        self._end: str | None = None

    @property
    def is_closed(self) -> bool:
        return self._end is not None

    def put(self, handover: HandOver, *, timeout: float | None) -> Item:
        """Takes a hand-over on.

        Raises:
            TimeoutError: if the box stays full for `timeout` seconds.
            ConnectionLostError: if the box is closed.
        """
        with self._changed:
            has_space = self._changed.wait_for(
                lambda: self._end is not None or len(self._waiting) < self._max_waiting, timeout
            )
            if self._end:
                raise ConnectionLostError(self._end)
            if not has_space:
                raise TimeoutError(
                    f"{self._max_waiting} hand-overs have waited for {timeout:g} s for the receiver "
                    f"to make room; it decodes too slowly for what is prefilled."
                )
            item = Item(next(self._ids), handover, Future())
            self._waiting.append(item)
            self._changed.notify_all()
        item.future.add_done_callback(lambda future: self._drop(item))
        return item

    def next_waiting(self) -> Item | None:
        """Returns the oldest that waits, once there is one; None when the box is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._end is not None or bool(self._waiting))
            return None if self._end else self._waiting[0]

    def grant(self, item_id: int) -> None:
        """Notes that the receiver has room for an item."""
        with self._changed:
            for item in self._waiting:
                item.is_granted |= item.id == item_id
            self._changed.notify_all()

    def await_grant(self, item: Item) -> bool:
        """Waits until there is room for an item, and starts it; False if it ended before."""
        with self._changed:
            self._changed.wait_for(
                lambda: item.is_granted or item not in self._waiting  # `close` empties it too.
            )
        return self.start(item)

    def start(self, item: Item) -> bool:
        """Notes that the bytes are on their way; False if the item was cancelled or has failed."""
        with self._changed:
            if item not in self._waiting:
                return False
            self._waiting.remove(item)
            self._changed.notify_all()
            if not item.future.set_running_or_notify_cancel():
                return False
            self._started[item.id] = item
            return True

    def finish(self, item_id: int, error: TransportError | None) -> None:
        """Ends an item that the receiver has accepted or refused; for one that is not there any more it does nothing."""
        with self._changed:
            for item in [item for item in self._waiting if item.id == item_id]:
                self.start(item)
            done = self._started.pop(item_id, None)
            self._changed.notify_all()
        if done is not None:
            _settle(done, error)

    def close(self, reason: str) -> None:
        """Ends all items with a `ConnectionLostError`, and lets nothing in any more."""
        with self._changed:
            if self._end:
                return
            self._end = reason
            for item in list(self._waiting):
                self.start(item)
            items = list(self._started.values())
            self._started.clear()
            self._changed.notify_all()
        for item in items:
            _settle(item, ConnectionLostError(reason))

    def await_empty(self, *, timeout: float) -> bool:
        """Waits until nothing is on its way; False if `timeout` seconds pass first."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._end is not None or not (self._waiting or self._started), timeout
            )

    def _drop(self, item: Item) -> None:
        # Called when a future is done: what still waits then was cancelled or has failed.
        with self._changed:
            if item in self._waiting:
                self._waiting.remove(item)
            self._changed.notify_all()


def _settle(item: Item, error: TransportError | None) -> None:
    if error is None:
        item.future.set_result(None)
    else:
        item.future.set_exception(error)
