"""`LocalDecodeWorker`: a decode engine of this process as a worker.

async with LocalDecodeWorker(engine, receiver, name="decode-0", max_running=64, target=receiver.address) as worker: ...
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

from trellax.inference.disaggregation.delivery import Delivery, Receiver
from trellax.inference.disaggregation.errors import ConnectionLostError, NoRoomError, WorkerError
from trellax.inference.disaggregation.workers import DecodeEngine, Gauges
from trellax.inference.requests import Output

_RETRY_S = 0.02
"""An engine without room is asked again after so long at the latest."""


class LocalDecodeWorker:
    """Takes hand-overs up in the order in which they come; one for which there is no room keeps the room of its receiver.

    So a full engine makes the receiver grant nothing, and senders wait.
    """

    def __init__(
        self,
        engine: DecodeEngine,
        receiver: Receiver,
        *,
        name: str,
        max_running: int,
        target: str,
        patience: float = 10.0,
    ):
        """
        Args:
            engine: computes.
            receiver: where hand-overs come in; the worker closes it.
            name: of the worker.
            max_running: requests at once, those included whose pages are on the way.
            target: the receiver's, for prefill workers.
            patience: seconds that a hand-over may wait for a `resume` before it is refused.
        """
        self.name = name
        self.max_running = max_running
        self._engine = engine
        self._receiver = receiver
        self._target = target
        self._patience = patience
        self._expected: dict[str, asyncio.Future[Delivery]] = {}
        self._early: dict[str, tuple[Delivery, asyncio.TimerHandle]] = {}
        self._is_closed = False
        self._turn = asyncio.Lock()
        self._ended = asyncio.Event()
        # Answers to senders are writes to sockets: in a thread, in order.
        self._answers = ThreadPoolExecutor(1, thread_name_prefix=f"answers-{name}")

    async def __aenter__(self) -> LocalDecodeWorker:
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._receive, args=(loop,), name=f"receive-{self.name}", daemon=True
        )
        self._thread.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Refuses what is on the way; what the engine has taken up goes on."""
        await asyncio.to_thread(self._receiver.close)
        await asyncio.to_thread(self._thread.join)
        self._is_closed = True
        for future in self._expected.values():
            if not future.done():
                future.set_exception(WorkerError(f"{self.name} is closed."))
        for request_id in list(self._early):
            self._refuse_early(request_id)
        await asyncio.to_thread(self._answers.shutdown)

    async def target(self) -> str:
        """As `DecodeWorker.target`."""
        return self._target

    def gauges(self) -> Gauges:
        """As of the engine."""
        return self._engine.gauges()

    async def resume(self, request_id: str) -> AsyncGenerator[Output, None]:
        """As `DecodeWorker.resume`."""
        delivery = await self._arrival(request_id)
        try:
            pieces = await self._take_up(delivery)
        except BaseException:
            self._answer(delivery.refuse, "The request was given up.")
            raise
        self._answer(delivery.accept)
        try:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    yield piece
        finally:
            self._ended.set()

    async def _take_up(self, delivery: Delivery) -> AsyncGenerator[Output, None]:
        async with self._turn:  # In order: a long sequence is not overtaken for ever by short ones.
            while True:
                try:
                    return await self._engine.resume(delivery.handover)
                except NoRoomError:
                    self._ended.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._ended.wait(), _RETRY_S)

    async def _arrival(self, request_id: str) -> Delivery:
        if request_id in self._early:
            delivery, timer = self._early.pop(request_id)
            timer.cancel()
            return delivery
        arrival = self._expected[request_id] = asyncio.get_running_loop().create_future()
        try:
            return await arrival
        except asyncio.CancelledError:
            if arrival.done() and not arrival.cancelled():  # Both in the same turn of the loop.
                self._answer(arrival.result().refuse, "The request was given up.")
            raise
        finally:
            del self._expected[request_id]

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(ConnectionLostError):  # The receiver is closed.
            while True:
                loop.call_soon_threadsafe(self._arrive, self._receiver.receive())

    def _arrive(self, delivery: Delivery) -> None:
        request_id = delivery.handover.request.id
        expected = self._expected.get(request_id)
        if expected is not None and not expected.done():
            expected.set_result(delivery)
        elif request_id in self._early:
            self._answer(delivery.refuse, f"The request {request_id!r} was handed over before.")
        else:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._patience, self._refuse_early, request_id)
            self._early[request_id] = (delivery, timer)

    def _refuse_early(self, request_id: str) -> None:
        delivery, timer = self._early.pop(request_id)
        timer.cancel()
        self._answer(delivery.refuse, f"Nobody has asked for the request {request_id!r}.")

    def _answer(self, answer_fn: Callable[..., None], *args: str) -> None:
        if not self._is_closed:  # Else the receiver has refused it.
            self._answers.submit(answer_fn, *args)
