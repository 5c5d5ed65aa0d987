"""`LocalPrefillWorker`: a prefill engine of this process as a worker.

worker = LocalPrefillWorker(engine, name="prefill-0", max_running=8, room_bytes=4 << 30, connect_fn=connect)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor

from trellax.inference.disaggregation.delivery import Claim, Room, Sender
from trellax.inference.disaggregation.errors import TransportError, WorkerError
from trellax.inference.disaggregation.handover import HandOver
from trellax.inference.disaggregation.workers import Gauges, PrefillEngine
from trellax.inference.requests import Output, Request


class LocalPrefillWorker:
    """Prefills `max_running` requests at once: each holds its place until a decode worker has its pages.

    An engine frees pages once they are copied to the host, so the host's memory is what may run out. A request therefore
    claims the bytes of its hand-over before it is prefilled, in order of arrival, and gives them back when it is accepted.
    So prefilling goes as fast as decode workers take sequences up, and what waits for them is bounded in number and in bytes.
    """

    def __init__(
        self,
        engine: PrefillEngine,
        *,
        name: str,
        max_running: int,
        room_bytes: int,
        connect_fn: Callable[[str], Sender],
        handover_timeout: float = 300.0,
    ):
        """
        Args:
            engine: computes.
            name: of the worker.
            max_running: requests between their start and the acceptance of their pages.
            room_bytes: of host memory that hand-overs may take, made or yet to be made, until they are accepted.
            connect_fn: makes a sender to a target; is called again once that is closed. It may block.
            handover_timeout: seconds that a decode worker may take until it accepts pages.
        """
        self.name = name
        self.max_running = max_running
        self._engine = engine
        self._connect_fn = connect_fn
        self._handover_timeout = handover_timeout
        self._places = asyncio.Semaphore(max_running)
        self._room = Room(room_bytes)
        # Connecting blocks, and so does sending into a full queue: not on the event loop.
        self._threads = ThreadPoolExecutor(max_running, thread_name_prefix=f"hand-over-{name}")
        self._senders: dict[str, Sender] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    async def prefill(
        self, request: Request, *, earlier_ids: tuple[int, ...], target: str
    ) -> AsyncGenerator[Output, None]:
        """As `PrefillWorker.prefill`."""
        num_bytes = self._engine.handover_bytes(request, earlier_ids=earlier_ids)
        async with self._places, self._claimed(num_bytes):
            prefilled = await self._engine.prefill(request, earlier_ids=earlier_ids)
            try:
                yield prefilled.output
                if prefilled.handover is not None:
                    await self._hand_over(prefilled.handover, target)
            finally:
                if prefilled.handover is not None:
                    self._engine.release(request.id)

    def gauges(self) -> Gauges:
        """As of the engine."""
        return self._engine.gauges()

    async def close(self) -> None:
        """Ends the connections, and with them all hand-overs on the way."""
        for sender in self._senders.values():
            await asyncio.to_thread(sender.close, timeout=0.0)
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextlib.asynccontextmanager
    async def _claimed(self, num_bytes: int) -> AsyncGenerator[None, None]:
        """Waits for so many bytes of room and holds them."""
        if num_bytes > self._room.capacity_bytes:
            raise WorkerError(
                f"The hand-over takes {num_bytes} bytes and {self.name} has room for {self._room.capacity_bytes} in all; "
                f"give it larger room_bytes."
            )
        has_room = asyncio.Event()
        claim = Claim(num_bytes, has_room.set)
        self._room.ask(claim)
        try:
            await has_room.wait()
            yield
        finally:
            self._room.give_up(claim)

    async def _hand_over(self, handover: HandOver, target: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._handover_timeout):
                sent = await loop.run_in_executor(self._threads, self._send, handover, target)
                await asyncio.wrap_future(sent)
        except ValueError as error:  # It does not fit into the worker at all.
            raise WorkerError(str(error)) from error
        except TimeoutError as error:
            message = f"{target} has not taken pages up in {self._handover_timeout:g} s."
            raise TransportError(message) from error

    def _send(self, handover: HandOver, target: str) -> Future[None]:
        return self._sender(target).send(handover, timeout=self._handover_timeout)

    def _sender(self, target: str) -> Sender:
        with self._lock:
            lock = self._locks.setdefault(target, threading.Lock())
        with lock:  # One at a time to each target; a target that does not answer holds up no other.
            sender = self._senders.get(target)
            if sender is None or sender.is_closed:
                sender = self._senders[target] = self._connect_fn(target)
            return sender
