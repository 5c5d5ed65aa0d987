"""`supervise`: work for a client, for as long as it is there and its time is not over.

result = await supervise(work(), receive, ended, limit_s=60, tick_s=15, on_tick=send_comment)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from trellax.inference.server.errors import ApiError

_T = TypeVar("_T")
Receive = Callable[[], Awaitable[Any]]


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def supervise(
    work: Coroutine[Any, Any, _T],
    receive: Receive,
    ended: asyncio.Future[NoReturn],
    *,
    limit_s: float,
    tick_s: float,
    on_tick: Callable[[], Awaitable[None]],
) -> _T:
    """Returns what `work` returns; it is cancelled, and has ended, when this raises.

    Args:
        work: runs in a task of its own.
        receive: of ASGI, after the whole body was read.
        ended: ends the work when it gets an exception, which is raised.
        limit_s: how long it may take.
        tick_s: how often `on_tick` is called meanwhile.
        on_tick: is awaited.

    Raises:
        ClientGone: the client has left.
        ApiError: its time is over.
    """
    deadline = time.monotonic() + limit_s
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_until_disconnected(receive))
    waited: set[asyncio.Future[Any]] = {working, leaving, ended}
    try:
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise _too_long(limit_s)
            done, _ = await asyncio.wait(
                waited,
                timeout=min(tick_s, left_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if working in done:
                return working.result()
            if leaving in done:
                raise ClientGone
            if ended in done:
                ended.result()
            await on_tick()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_long(limit_s: float) -> ApiError:
    return ApiError(
        504,
        f"The request took more than {limit_s:g} seconds and was ended; ask for fewer tokens.",
        code="request_timeout",
        headers={"x-should-retry": "false"},
    )
