"""Disaggregated engines over fakes."""

import asyncio
import contextlib
import types

from tests.disaggregation.fakes import FakeDecodeEngine, FakePrefillEngine
from tests.disaggregation.handovers import FINGERPRINT
from trellax.inference.disaggregation import (
    DisaggregatedEngine,
    LocalDecodeWorker,
    LocalPrefillWorker,
    PageChannel,
    PageReceiver,
    PageSender,
    RemoteDecodeWorker,
    RemotePrefillWorker,
    WorkerServer,
)

MODEL = types.SimpleNamespace(id="fake", created=0, max_length=4096, vocab_size=1000)


class Cluster:
    """Attributes: `prefill` and `decode` engines, `engine` over all, `servers` of remote workers."""

    def __init__(self, prefill, decode, engine, servers):
        self.prefill, self.decode, self.engine = prefill, decode, engine
        self.servers = servers

    async def settle(self):
        """Waits until aborts have come to the other processes."""
        for _ in range(200):
            if not any(engine.running for engine in (*self.prefill, *self.decode)):
                break
            await asyncio.sleep(0.005)

    async def collect(self, request):
        return [piece async for piece in self.engine.generate([request])]

    def assert_idle(self):
        """Nothing runs and nothing is held."""
        assert not any(engine.running or engine.unreleased for engine in self.prefill)
        assert not any(engine.running for engine in self.decode)
        stats = self.engine.stats()
        assert (stats.num_running, stats.num_waiting) == (0, 0)


@contextlib.asynccontextmanager
async def cluster(
    *,
    transport="channel",
    num_prefill=2,
    num_decode=2,
    prefill_s=0.0,
    decode_s=0.0,
    max_sequences=100,
    max_prefills=4,
    max_decodes=100,
    capacity_bytes=1 << 20,
    room_bytes=1 << 20,
    **options,
):
    prefill = [FakePrefillEngine(seconds=prefill_s) for _ in range(num_prefill)]
    decode = [
        FakeDecodeEngine(seconds=decode_s, max_sequences=max_sequences) for _ in range(num_decode)
    ]
    async with contextlib.AsyncExitStack() as stack:
        receivers, decode_workers = {}, []
        for i, engine in enumerate(decode):
            if transport == "channel":
                receiver, target = PageChannel(capacity_bytes=capacity_bytes), f"channel-{i}"
            else:
                receiver = PageReceiver(fingerprint=FINGERPRINT, capacity_bytes=capacity_bytes)
                target = receiver.address
            receivers[target] = receiver
            worker = LocalDecodeWorker(
                engine, receiver, name=f"decode-{i}", max_running=max_decodes, target=target
            )
            decode_workers.append(await stack.enter_async_context(worker))

        def connect(target):
            if transport == "channel":
                return receivers[target]
            return PageSender(target, fingerprint=FINGERPRINT)

        prefill_workers = [
            LocalPrefillWorker(
                engine,
                name=f"prefill-{i}",
                max_running=max_prefills,
                room_bytes=room_bytes,
                connect_fn=connect,
            )
            for i, engine in enumerate(prefill)
        ]
        servers = []
        if transport == "remote":
            for workers, remote in (
                (prefill_workers, RemotePrefillWorker),
                (decode_workers, RemoteDecodeWorker),
            ):
                started = [
                    await WorkerServer.start(worker, fingerprint=FINGERPRINT) for worker in workers
                ]
                for server in started:
                    stack.push_async_callback(server.close)
                servers += started
                workers[:] = [remote(s.address, fingerprint=FINGERPRINT) for s in started]
        options = {"rest_s": 0.05, "page_size": 4, "seed": 0, "check_fn": lambda r: None, **options}
        engine = DisaggregatedEngine(MODEL, None, prefill_workers, decode_workers, **options)
        try:
            yield Cluster(prefill, decode, engine, servers)
        finally:
            await engine.close()


def run(coroutine):
    """Runs a test's coroutine; one that hangs fails."""
    return asyncio.run(asyncio.wait_for(coroutine, 30))
