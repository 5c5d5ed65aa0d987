"""Workers of other processes: lost connections, restarts, the wrong peer, roles that are scaled."""

import asyncio
import contextlib
import dataclasses

import pytest

from tests.disaggregation.clusters import cluster, run
from tests.disaggregation.fakes import FakePrefillEngine, fused
from tests.disaggregation.handovers import FINGERPRINT
from trellax.inference.disaggregation import (
    Gauges,
    LocalPrefillWorker,
    RemoteDecodeWorker,
    RemotePrefillWorker,
    WorkerError,
    WorkerServer,
    discovery,
    follow,
)
from trellax.inference.requests import Request, RequestError, SamplingParams

REQUEST = Request("cmpl-1", tuple(range(10)), SamplingParams(seed=1, max_tokens=20))


def prefill_worker(engine):
    return LocalPrefillWorker(
        engine, name="prefill", max_running=3, room_bytes=1 << 20, connect_fn=None
    )


@contextlib.asynccontextmanager
async def served(engine, **options):
    server = await WorkerServer.start(
        prefill_worker(engine), **{"fingerprint": FINGERPRINT, **options}
    )
    yield server
    await server.close()


async def prefill(worker, request):
    return [piece async for piece in worker.prefill(request, earlier_ids=(), target="nowhere:1")]


ONE_TOKEN = dataclasses.replace(REQUEST, params=SamplingParams(seed=1, max_tokens=1))


def test_a_worker_that_hangs_up_fails_what_runs_and_is_connected_to_again():
    async def check():
        engine = FakePrefillEngine(seconds=0.05)
        async with served(engine) as first:
            worker = RemotePrefillWorker(first.address, fingerprint=FINGERPRINT)
            running = asyncio.create_task(prefill(worker, ONE_TOKEN))
            await asyncio.sleep(0.03)
        with pytest.raises(WorkerError, match=f"{first.address}: the connection was lost"):
            await running
        with pytest.raises(WorkerError, match="no worker answers"):
            await prefill(worker, ONE_TOKEN)
        assert not engine.running
        async with served(engine, bind=first.address):
            assert await prefill(worker, ONE_TOKEN) == fused(ONE_TOKEN)
            assert worker.max_running == 3
        await worker.close()

    run(check())


def test_a_router_that_hangs_up_aborts_what_runs_for_it():
    async def check():
        engine = FakePrefillEngine(seconds=10)
        async with served(engine) as server:
            worker = RemotePrefillWorker(server.address, fingerprint=FINGERPRINT)
            running = asyncio.create_task(prefill(worker, ONE_TOKEN))
            await asyncio.sleep(0.1)
            assert engine.running
            await worker.close()
            with pytest.raises(WorkerError):
                await running
            await asyncio.sleep(0.1)
            assert not engine.running

    run(check())


def test_a_request_that_can_never_run_is_the_clients_mistake_there_too():
    class Refusing(FakePrefillEngine):
        async def prefill(self, request, *, earlier_ids):
            raise RequestError("The prompt has 10 tokens; at most 5 fit.", param="prompt")

    async def check():
        async with served(Refusing()) as server:
            worker = RemotePrefillWorker(server.address, fingerprint=FINGERPRINT)
            with pytest.raises(RequestError, match="at most 5 fit") as refused:
                await prefill(worker, ONE_TOKEN)
            assert refused.value.param == "prompt"
            await worker.close()

    run(check())


def test_any_other_error_is_the_workers():
    class Broken(FakePrefillEngine):
        async def prefill(self, request, *, earlier_ids):
            raise ZeroDivisionError("by zero")

    async def check():
        async with served(Broken()) as server:
            worker = RemotePrefillWorker(server.address, fingerprint=FINGERPRINT)
            with pytest.raises(WorkerError, match="ZeroDivisionError: by zero"):
                await prefill(worker, ONE_TOKEN)
            await worker.close()

    run(check())


def test_peers_that_do_not_belong_together_say_why():
    async def check():
        async with served(FakePrefillEngine(), secret=b"one") as server:
            for options, reason in (
                ({"fingerprint": "model-b", "secret": b"one"}, f"'{FINGERPRINT}'.*'model-b'"),
                ({"fingerprint": FINGERPRINT, "secret": b"two"}, "does not know the shared secret"),
                ({"fingerprint": FINGERPRINT}, "the same shared secret, or none"),
            ):
                worker = RemotePrefillWorker(server.address, **options)
                with pytest.raises(WorkerError, match=reason):
                    await prefill(worker, ONE_TOKEN)
            wrong_role = RemoteDecodeWorker(server.address, fingerprint=FINGERPRINT, secret=b"one")
            with pytest.raises(WorkerError, match="no call 'resume'; is it of the other role"):
                await anext(wrong_role.resume("cmpl-1"))
            await wrong_role.close()

    run(check())


def test_a_worker_tells_its_gauges():
    async def check():
        async with served(FakePrefillEngine()) as server:
            worker = RemotePrefillWorker(server.address, fingerprint=FINGERPRINT)
            assert worker.gauges() == Gauges()
            await prefill(worker, ONE_TOKEN)
            assert worker.gauges() == Gauges(page_usage=0.25, num_preemptions=1, num_compiles=2)
            await worker.close()

    run(check())


@pytest.mark.parametrize("role", [0, 2], ids=["prefill", "decode"])
def test_a_process_that_dies_is_replaced_and_nobody_sees_it(role):
    async def check():
        async with cluster(transport="remote", prefill_s=0.05, decode_s=0.005) as c:
            streams = [c.collect(dataclasses.replace(REQUEST, id=f"r{i}")) for i in range(6)]
            running = asyncio.gather(*streams)
            engine = [*c.prefill, *c.decode][role]
            while not engine.running:
                await asyncio.sleep(0.001)
            await c.servers[role].close()
            results = await running
            assert c.engine.stats().num_retries > 0
            await c.settle()
            c.assert_idle()
            return results

    for i, pieces in enumerate(run(check())):
        assert pieces == fused(dataclasses.replace(REQUEST, id=f"r{i}"))


def test_many_workers_that_do_not_answer_cost_a_request_nothing_but_time():
    async def check():
        async with cluster(transport="remote", num_prefill=8, max_failures=2) as c:
            # Of equals the first by name is chosen.
            *dead, living = sorted(c.servers[:8], key=lambda server: server.address)
            for server in dead:
                await server.close()
            assert await c.collect(REQUEST) == fused(REQUEST)
            assert c.engine.stats().num_retries == 7
            await living.close()
            (piece,) = await c.collect(dataclasses.replace(REQUEST, id="late"))
            assert (
                piece.finish_reason == "abort"
            )  # None has begun with it: clients may send it again.

    run(check())


def test_a_role_is_scaled_while_requests_run(monkeypatch):
    async def check():
        found = {"10.0.0.1:8470"}

        async def look_up(host, port):
            assert (host, port) == ("prefill", 8470)
            return found

        monkeypatch.setattr(discovery, "_look_up", look_up)
        made, seen = [], []

        def make(address):
            made.append(address)
            return object()

        following = asyncio.create_task(
            follow(["prefill:8470"], make_fn=make, set_fn=seen.append, every_s=0.005)
        )
        await asyncio.sleep(0.05)
        found = {"10.0.0.1:8470", "10.0.0.2:8470"}
        await asyncio.sleep(0.05)
        found = set()  # The name server is away.
        await asyncio.sleep(0.05)
        found = {"10.0.0.2:8470"}
        await asyncio.sleep(0.05)
        following.cancel()
        assert made == ["10.0.0.1:8470", "10.0.0.2:8470"]
        assert [len(workers) for workers in seen] == [1, 2, 1]
        assert seen[1] == [seen[0][0], seen[2][0]]

    run(check())


def test_a_name_that_is_not_known_yet_takes_nothing_from_others(monkeypatch):
    addresses = {"one": {"10.0.0.1:8470"}, "two": set()}
    seen = []

    async def look_up(host, port):
        return addresses[host]

    monkeypatch.setattr(discovery, "_look_up", look_up)

    async def check():
        following = asyncio.create_task(
            follow(["one:8470", "two:8470"], make_fn=str, set_fn=seen.append, every_s=0.005)
        )
        await asyncio.sleep(0.05)
        addresses.update(one=set(), two={"10.0.0.2:8470"})
        await asyncio.sleep(0.05)
        following.cancel()

    run(check())
    assert seen == [["10.0.0.1:8470"], ["10.0.0.1:8470", "10.0.0.2:8470"]]


def test_a_server_that_drains_finishes_what_it_has_and_takes_nothing_new():
    async def check():
        async with cluster(transport="remote", num_decode=2, decode_s=0.005, rest_s=0.05) as c:
            running = asyncio.create_task(c.collect(REQUEST))
            while not any(engine.running for engine in c.decode):
                await asyncio.sleep(0.001)
            (busy,) = (i for i, engine in enumerate(c.decode) if engine.running)
            (server,) = (s for s in c.servers[2:] if s.num_running)
            server.drain()
            late = [dataclasses.replace(REQUEST, id=f"late-{i}") for i in range(4)]
            results = await asyncio.gather(*map(c.collect, late))
            assert results == [fused(request) for request in late]
            assert c.decode[busy].taken_up == [REQUEST.id]
            assert await running == fused(REQUEST)
            await asyncio.sleep(0.05)
            assert server.num_running == 0

    run(check())


def test_names_are_looked_up():
    assert run(discovery._look_up("127.0.0.1", 8470)) == {"127.0.0.1:8470"}
    assert run(discovery._look_up("no-such-host.invalid", 8470)) == set()


def test_a_worker_that_leaves_finishes_what_it_has():
    async def check():
        async with cluster(num_decode=2, decode_s=0.005) as c:
            running = asyncio.create_task(c.collect(REQUEST))
            await asyncio.sleep(0.03)
            assert c.decode[0].running
            c.engine.set_decode_workers(c.engine._decode.workers[1:])
            late = dataclasses.replace(REQUEST, id="late")
            assert await c.collect(late) == fused(late)
            assert await running == fused(REQUEST)
            assert c.decode[0].taken_up == [REQUEST.id]
            assert c.engine.stats().num_retries == 0

    run(check())
