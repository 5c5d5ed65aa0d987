"""`WorkerPool`: the workers of a role: who takes the next request, and who waits for one.

    async with pool.take(load=len(prompt), priority=0, preferred=["prefill-1"]) as worker: ...

A worker takes up to `max_running` requests. Who waits is served by priority, then in order of arrival. Among workers with a
place the least loaded is taken, unless a preferred one is nearly as good. One that has failed rests for a while, and is not
given a request again that it has failed as long as others work, full though they may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import heapq
import itertools
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Generic, Protocol, TypeVar


class Worker(Protocol):
    """What a pool looks at."""

    @property
    def name(self) -> str: ...
    @property
    def max_running(self) -> int: ...

    async def close(self) -> None: ...


W = TypeVar("W", bound=Worker)


@dataclasses.dataclass(eq=False)
class _Member(Generic[W]):
    worker: W
    num_running: int = 0
    load: int = 0
    num_failures: int = 0
    rests_until: float = 0.0


@dataclasses.dataclass(order=True)
class _Waiter(Generic[W]):
    priority: int
    arrival: int
    load: int = dataclasses.field(compare=False)
    preferred: Sequence[str] = dataclasses.field(compare=False)
    avoided: Collection[str] = dataclasses.field(compare=False)
    place: asyncio.Future[_Member[W]] = dataclasses.field(compare=False)


def choose(loads: Mapping[str, int], *, preferred: Sequence[str] = (), slack: int = 0) -> str:
    """Returns the name of the worker that is to take a request; a pure function.

    Args:
        loads: tokens under way, of each worker that has a place; at least one.
        preferred: names, best first.
        slack: tokens that a preferred worker may have under way more than the least loaded one.
    """
    least = min(loads, key=lambda name: (loads[name], name))
    good = (name for name in preferred if name in loads and loads[name] <= loads[least] + slack)
    return next(good, least)


class WorkerPool(Generic[W]):
    """Shares out requests among workers, which may come and go; for one event loop."""

    def __init__(self, workers: Sequence[W], *, slack: int, rest_s: float):
        """
        Args:
            workers: to begin with.
            slack: as of `choose`.
            rest_s: seconds that a worker gets no requests after a failure, while there are others.
        """
        self._slack = slack
        self._rest_s = rest_s
        self._members: dict[str, _Member[W]] = {}
        self._waiters: list[_Waiter[W]] = []
        self._arrivals = itertools.count()
        self._leaving: set[_Member[W]] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self.set_workers(workers)

    @property
    def workers(self) -> list[W]:
        """All that may be given requests."""
        return [member.worker for member in self._members.values()]

    @property
    def num_waiting(self) -> int:
        """Requests without a worker."""
        return sum(not waiter.place.done() for waiter in self._waiters)

    @property
    def num_failures(self) -> dict[str, int]:
        """Of each worker, since it came."""
        return {name: member.num_failures for name, member in self._members.items()}

    def set_workers(self, workers: Sequence[W]) -> None:
        """Replaces the workers; those of a name that is there already stay. Those that leave are closed once they are idle."""
        names = {worker.name for worker in workers}
        assert len(names) == len(workers), "two workers have the same name"
        for name in set(self._members) - names:
            self._leaving.add(member := self._members.pop(name))
            self._close_if_idle(member)
        for worker in workers:
            if worker.name not in self._members:
                self._members[worker.name] = _Member(worker)
        self._serve()

    async def close(self) -> None:
        """Closes all workers at once, busy or not."""
        members = [*self._members.values(), *self._leaving]
        self._members.clear()
        self._leaving.clear()
        await asyncio.gather(*self._closing, *(member.worker.close() for member in members))

    @contextlib.asynccontextmanager
    async def take(
        self,
        *,
        load: int,
        priority: int = 0,
        preferred: Sequence[str] = (),
        avoided: Collection[str] = (),
    ) -> AsyncGenerator[W, None]:
        """Waits for a place at a worker and holds it.

        Args:
            load: tokens that the request brings.
            priority: lower ones are served first.
            preferred: as of `choose`.
            avoided: names that it takes only while all others rest after a failure.
        """
        place = asyncio.get_running_loop().create_future()
        arrival = next(self._arrivals)
        heapq.heappush(self._waiters, _Waiter(priority, arrival, load, preferred, avoided, place))
        self._serve()
        try:
            member = await place
            yield member.worker
        finally:
            if not place.cancel() and not place.cancelled():
                self._leave(place.result(), load)
            self._serve()

    def fail(self, worker: W) -> None:
        """Notes that a worker has failed a request."""
        if member := self._members.get(worker.name):
            member.num_failures += 1
            member.rests_until = time.monotonic() + self._rest_s
            asyncio.get_running_loop().call_later(self._rest_s + 0.001, self._serve)

    def _leave(self, member: _Member[W], load: int) -> None:
        member.num_running -= 1
        member.load -= load
        self._close_if_idle(member)

    def _close_if_idle(self, member: _Member[W]) -> None:
        if member in self._leaving and not member.num_running:
            self._leaving.remove(member)
            closing = asyncio.ensure_future(member.worker.close())
            self._closing.add(closing)  # A task that nobody holds may vanish.
            closing.add_done_callback(self._closing.discard)

    def _serve(self) -> None:
        held_up = []
        while self._waiters:
            waiter = heapq.heappop(self._waiters)
            if waiter.place.done():  # It was cancelled.
                continue
            member = self._member_for(waiter)
            if member is not None:
                member.num_running += 1
                member.load += waiter.load
                waiter.place.set_result(member)
                continue
            held_up.append(waiter)
            if not waiter.avoided:
                break  # There is no place at all; else there may be one for others.
        for waiter in held_up:
            heapq.heappush(self._waiters, waiter)

    def _member_for(self, waiter: _Waiter[W]) -> _Member[W] | None:
        now = time.monotonic()
        awake = {n: member for n, member in self._members.items() if member.rests_until <= now}
        wanted = {n: member for n, member in awake.items() if n not in waiter.avoided} or awake
        loads = {
            name: member.load
            for name, member in wanted.items()
            if member.num_running < member.worker.max_running
        }
        if not loads:
            return None
        return self._members[choose(loads, preferred=waiter.preferred, slack=self._slack)]
