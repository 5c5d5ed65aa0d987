"""Processes with a worker each, over fake engines: `python -m tests.disaggregation.worker_process ROLE ...`.

Each prints its number, its process id and its address, and ends when its standard input does. They are forked from one that
has imported everything, which takes longer than all the rest.
"""

import asyncio
import contextlib
import os
import sys

from tests.disaggregation.fakes import FakeDecodeEngine, FakePrefillEngine
from tests.disaggregation.handovers import FINGERPRINT
from trellax.inference.disaggregation import (
    LocalDecodeWorker,
    LocalPrefillWorker,
    PageReceiver,
    PageSender,
    WorkerServer,
)

OPTIONS = {"fingerprint": FINGERPRINT, "secret": b"known to all"}


async def serve(number: int, role: str) -> None:
    """A worker of a role."""
    async with contextlib.AsyncExitStack() as stack:
        if role == "prefill":
            worker = LocalPrefillWorker(
                FakePrefillEngine(seconds=0.005),
                name=role,
                max_running=4,
                room_bytes=1 << 20,
                connect_fn=lambda target: PageSender(target, **OPTIONS),
            )
        else:
            receiver = PageReceiver(**OPTIONS, capacity_bytes=1 << 20)
            worker = await stack.enter_async_context(
                LocalDecodeWorker(
                    FakeDecodeEngine(seconds=0.005),
                    receiver,
                    name=role,
                    max_running=16,
                    target=receiver.address,
                )
            )
        server = await WorkerServer.start(worker, **OPTIONS)
        stack.push_async_callback(server.close)
        tell(number, server.address)
        await asyncio.to_thread(sys.stdin.read)


def accept_one(number: int) -> None:
    """A receiver that accepts its first hand-over and no other."""
    receiver = PageReceiver(**OPTIONS, capacity_bytes=1 << 30)
    tell(number, receiver.address)
    receiver.receive().accept()
    sys.stdin.read()


def tell(number: int, address: str) -> None:
    # In one piece: the processes share the pipe.
    os.write(sys.stdout.fileno(), f"{number} {os.getpid()} {address}\n".encode())


def main(roles: list[str]) -> None:
    for number, role in enumerate(roles):
        if os.fork() == 0:
            if role == "accept-one":
                accept_one(number)
            else:
                asyncio.run(serve(number, role))
            os._exit(0)
    for _ in roles:
        os.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
