"""`follow`: keeps a role's workers up to date as the role is scaled.

    following = asyncio.create_task(follow(["prefill.svc:8470"], make_fn=make_worker, set_fn=engine.set_prefill_workers))

A headless service of Kubernetes has one address for each pod that is ready, so its name tells which workers there are.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

from trellax.inference.disaggregation.addresses import format_address, parse_address

W = TypeVar("W")


async def follow(
    addresses: Sequence[str],
    *,
    make_fn: Callable[[str], W],
    set_fn: Callable[[Sequence[W]], None],
    every_s: float = 5.0,
) -> None:
    """Looks names up again and again, until it is cancelled.

    Args:
        addresses: "host:port" each, whose host has an address for each worker. While a name is unknown, or the look-up fails,
            its workers stay as they are: a name server that is away must not empty the role.
        make_fn: makes the worker of an address, once.
        set_fn: is given all workers whenever they change.
        every_s: seconds between look-ups.
    """
    found: dict[str, set[str]] = {}
    workers: dict[str, W] = {}
    while True:
        for address in addresses:
            found[address] = await _look_up(*parse_address(address)) or found.get(address, set())
        names = set().union(*found.values())
        if names != workers.keys():
            workers = {name: workers.get(name) or make_fn(name) for name in sorted(names)}
            set_fn(list(workers.values()))
        await asyncio.sleep(every_s)


async def _look_up(host: str, port: int) -> set[str]:
    loop = asyncio.get_running_loop()
    try:
        entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {format_address(str(address[0]), port) for *_, address in entries}
