"""A process with one worker over a fake engine: `python -m tests.disaggregation.worker_process ROLE`.

It prints its address, and ends when its standard input does.
"""

import asyncio
import contextlib
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

SECRET = b"known to all"
OPTIONS = {"fingerprint": FINGERPRINT, "secret": SECRET}


async def serve(role: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if role == "prefill":
            worker = LocalPrefillWorker(
                FakePrefillEngine(seconds=0.005),
                name=role,
                max_running=4,
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
        print(server.address, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
