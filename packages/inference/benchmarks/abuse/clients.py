"""Clients that never rest, and what became of each of their requests.

crowd = Crowd(port, seed=0, capacity=24)
async with asyncio.TaskGroup() as tasks: crowd.start(tasks)
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import json
import random
import time
from typing import Any, Literal, NamedTuple

from benchmarks.abuse.bodies import Generation, generation, malformed
from benchmarks.abuse.wire import Broken, Connection, connected, error_code, request, send

Signal = Literal["TERM", "KILL"]
LORIS_S = 90.0
"""How long a connection may stay open on which next to nothing is sent: the server's limits are 10 and 60 s."""


class FirstToken(NamedTuple):
    """When a stream got its first token.

    Attributes:
        life: of the server, its number.
        at_s: in this life.
        after_s: since the request was sent.
    """

    life: int
    at_s: float
    after_s: float


@dataclasses.dataclass
class Crowd:
    """All clients.

    Attributes:
        port: of the server.
        seed: of what they do.
        capacity: requests that the server can hold.
        ending: the signal that the server has got, until it is back; None while it serves.
        signalled_at: when.
        is_paused: whether nobody may begin anything.
        active: requests under way.
        outcomes: how often each came.
        lost: those that should not be, one text each.
        began_at: when the present life began to serve.
        life: its number.
        first_tokens: of streams that were admitted.
    """

    port: int
    seed: int
    capacity: int
    ending: Signal | None = None
    signalled_at: float = 0.0
    is_paused: bool = True
    is_over: bool = False
    active: int = 0
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    lost: list[str] = dataclasses.field(default_factory=list)
    began_at: float = 0.0
    life: int = -1
    first_tokens: list[FirstToken] = dataclasses.field(default_factory=list)

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Starts twice as many clients as the server has room for, and those that send what is no request."""
        for number in range(2 * self.capacity):
            tasks.create_task(self._forever(self._generate, number))
        for number in range(3):
            tasks.create_task(self._forever(self._send_malformed, 10_000 + number))
        for number in range(4):
            tasks.create_task(self._forever(self._creep, 20_000 + number))

    async def _forever(self, act: Any, number: int) -> None:
        draw = random.Random(f"{self.seed} {number}")
        while not self.is_over:
            if self.is_paused:
                await asyncio.sleep(0.1)
                continue
            began = time.monotonic()
            self.active += 1
            try:
                outcome = await act(draw)
            except (Broken, OSError) as error:
                outcome = self._excuse(error, began)
            except Exception as error:  # A client's own fault is one, too.
                outcome = f"lost: {type(error).__name__}: {error}"
            finally:
                self.active -= 1
            self._count(outcome, began)
            # Who was refused asks again soon, but not at once.
            await asyncio.sleep(draw.uniform(0.3, 1.2) if not outcome.startswith("answered") else 0)

    def _count(self, outcome: str, began: float) -> None:
        if outcome.startswith("lost"):
            since = f"{began - self.signalled_at:.2f} s after the last signal"
            self.lost.append(
                f"{outcome} (began {since if self.signalled_at else 'in the first life'})"
            )
            print(self.lost[-1], flush=True)
            outcome = "lost"
        self.outcomes[outcome] += 1

    def _excuse(self, error: Exception, began: float) -> str:
        """Returns the outcome of a request whose connection broke: lost, unless we ended the server meanwhile."""
        had_answer = isinstance(error, Broken) and error.had_answer
        if self.ending == "KILL":
            return (
                "cut off by SIGKILL" if began < self.signalled_at else "nobody there after SIGKILL"
            )
        # Whoever came before SIGTERM is owed an answer; whoever came after may find nobody, but no half of one.
        if self.ending == "TERM" and began >= self.signalled_at and not had_answer:
            return "nobody there after SIGTERM"
        return f"lost: {error} {'within' if had_answer else 'instead of'} an answer"

    def begin(self) -> None:
        """Lets the clients loose on a server that has just started."""
        self.life, self.began_at = self.life + 1, time.monotonic()
        self.ending, self.is_paused = None, False

    # ---- requests -----------------------------------------------------------------------------------------------

    async def _generate(self, draw: random.Random) -> str:
        drawn = generation(draw)
        leaves_after = draw.randrange(0, 20) if draw.random() < 0.2 else None
        body = json.dumps(drawn.body).encode()
        async with connected(self.port) as connection:
            sent = time.monotonic()
            await send(connection, request(drawn.path, body))
            if leaves_after is not None and (leaves_after == 0 or not drawn.body.get("stream")):
                return await _leave(connection, draw.expovariate(1.0))
            await connection.read_head()
            if connection.status != 200:
                return self._refused(connection.status, await connection.body())
            if drawn.body.get("stream"):
                return await self._read_stream(connection, drawn, sent, leaves_after)
            answer = json.loads(await connection.body())
            return _judged(drawn, answer["usage"], [c["finish_reason"] for c in answer["choices"]])

    def _refused(self, status: int, body: bytes) -> str:
        code = error_code(body)
        if status == 503 and code == "queue_full":
            return "refused: 503 queue_full"
        if status == 503 and code == "draining" and self.ending == "TERM":
            return "refused: 503 draining"
        return f"lost: {status} {body[:300]!r} for a good request"

    async def _read_stream(
        self, connection: Connection, drawn: Generation, sent: float, leaves_after: int | None
    ) -> str:
        count, usage, reasons = 0, None, []
        async for event in _events(connection):
            if event == "[DONE]":
                return _judged(drawn, usage, reasons)
            if "error" in event:
                code = event["error"].get("code")
                known = code == "draining" and self.ending == "TERM"
                return f"ended midway: {code}" if known else f"lost: {event} in a stream"
            usage = event.get("usage") or usage
            reasons += [c["finish_reason"] for c in event["choices"] if c["finish_reason"]]
            if not count:
                now = time.monotonic()
                at_s = round(now - self.began_at, 1)
                self.first_tokens.append(FirstToken(self.life, at_s, round(now - sent, 3)))
            count += 1
            if leaves_after is not None and count >= leaves_after:
                return "cancelled within a stream"
        return "lost: a stream ended without [DONE]"

    # ---- abuse --------------------------------------------------------------------------------------------------

    async def _send_malformed(self, draw: random.Random) -> str:
        kind, body, length = malformed(draw)
        async with connected(self.port) as connection:
            data = request("/v1/completions", body, length=length)
            if kind == "truncated":
                await send(connection, data)
                await asyncio.sleep(draw.uniform(0, 2))
                return "malformed: truncated, hung up"
            # The answer may come, and the connection close, before all is sent.
            sending = asyncio.create_task(send(connection, data))
            try:
                await connection.read_head()
                answer = await connection.body()
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            expected = (413,) if kind == "huge" else (400,)
            if connection.status == 503 and self.ending == "TERM":
                return "malformed: 503"
            if connection.status in expected and error_code(answer):
                return f"malformed: {connection.status}"
            return f"lost: {kind} was answered {connection.status} {answer[:200]!r}"

    async def _creep(self, draw: random.Random) -> str:
        """Sends a byte now and then, headers or a body, until the server has had enough."""
        data = request("/v1/completions", b'{"prompt": "a"}' + b" " * 5000)
        start = draw.choice((0, data.index(b"\r\n\r\n") + 4))
        async with connected(self.port) as connection:
            began = time.monotonic()
            await send(connection, data[:start])
            closing = asyncio.create_task(connection.reader.read())
            for byte in data[start:]:
                done, _ = await asyncio.wait([closing], timeout=draw.uniform(0.5, 2))
                if done or self.is_over or self.is_paused:
                    break
                if time.monotonic() - began > LORIS_S:
                    closing.cancel()
                    return f"lost: a slow connection was still open after {LORIS_S:g} s"
                connection.writer.write(bytes([byte]))
            if not closing.done():
                closing.cancel()
                return "slow connection: left by us"
            # A reset is as good as an end.
            await asyncio.gather(closing, return_exceptions=True)
            return "slow connection: hung up on"


async def _leave(connection: Connection, after_s: float) -> str:
    await asyncio.sleep(after_s)
    return "cancelled before the answer"


async def _events(connection: Connection) -> Any:
    """Yields the events of a stream, JSON but for the last."""
    buffer = b""
    async for piece in connection.pieces():
        *events, buffer = (buffer + piece).split(b"\n\n")
        for event in map(bytes.strip, events):  # Empty lines keep a silent stream alive.
            if data := event.removeprefix(b"data: "):
                yield "[DONE]" if data == b"[DONE]" else json.loads(data)


def _judged(drawn: Generation, usage: Any, reasons: list[str]) -> str:
    """Returns the outcome of a whole answer: lost if it has not the tokens that were asked for."""
    count = usage and usage["completion_tokens"]
    num_choices = drawn.body.get("n", 1)
    is_right = usage and count <= drawn.most_tokens and len(reasons) == num_choices
    if not is_right or (drawn.num_tokens is not None and count != drawn.num_tokens):
        return f"lost: {count} tokens, {reasons}, for {drawn.num_tokens} of at most {drawn.most_tokens}"
    return "answered whole" if not drawn.body.get("stream") else "answered in a stream"
