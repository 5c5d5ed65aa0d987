"""Asynchronous streams of pieces: several as one, and one while another is watched."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def next_before(
    pieces: AsyncGenerator[T, None], watched: asyncio.Future[T | None]
) -> T | None:
    """Returns the next piece, None at the end; raises what `watched` raises if that comes first."""
    upcoming = asyncio.ensure_future(anext(pieces, None))
    try:
        while not upcoming.done():
            if watched.done():
                watched.result()
            pending = {upcoming} if watched.done() else {upcoming, watched}
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        return upcoming.result()
    finally:
        await cancelled(upcoming)


async def cancelled(task: asyncio.Future[T]) -> None:
    """Ends a task and waits until it has ended, however it does."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def ended_task(work: Awaitable[T]) -> AsyncGenerator[asyncio.Future[T], None]:
    """Runs `work` beside the block, and no longer than that."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        await cancelled(task)


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Yields the pieces of all as they come; what one raises ends all. Closing closes them."""
    pieces: asyncio.Queue[T | Exception | None] = asyncio.Queue(maxsize=len(streams))

    async def pass_on(stream: AsyncGenerator[T, None]) -> None:
        try:
            async with contextlib.aclosing(stream):
                async for piece in stream:
                    await pieces.put(piece)
        except Exception as error:  # Raised below, in the caller's task.
            await pieces.put(error)
        else:
            await pieces.put(None)

    tasks = [asyncio.ensure_future(pass_on(stream)) for stream in streams]
    num_left = len(tasks)
    try:
        while num_left:
            piece = await pieces.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                num_left -= 1
            else:
                yield piece
    finally:
        for task in tasks:
            await cancelled(task)
