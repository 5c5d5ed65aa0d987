"""An engine of prefill and decode workers gives what one engine gives, whatever fails, and holds back what is too much."""

import asyncio
import contextlib
import dataclasses
import random

import pytest

from tests.disaggregation.clusters import cluster, run
from tests.disaggregation.fakes import FakePrefillEngine, fused
from trellax.inference.requests import QueueFullError, Request, RequestError, SamplingParams

everywhere = pytest.mark.parametrize("transport", ["channel", "sockets", "remote"])


def make_request(name="cmpl-1", *, length=10, seed=1, **params):
    prompt_ids = tuple(random.Random(f"{name}").choices(range(1000), k=length))
    params = {"max_tokens": 12, **params}
    return Request(name, prompt_ids, SamplingParams(seed=seed, **params))


def tokens_of(pieces):
    return [token for piece in pieces for token in piece.token_ids]


@everywhere
def test_pieces_are_those_of_one_engine(transport):
    requests = [make_request(f"r{i}", seed=i, max_tokens=1 + i, logprobs=0) for i in range(12)]

    async def check():
        async with cluster(transport=transport) as c:
            results = await asyncio.gather(*map(c.collect, requests))
            c.assert_idle()
        return results

    assert run(check()) == [fused(request) for request in requests]


def test_pieces_of_several_requests_come_mixed_and_whole():
    requests = [make_request(f"r{i}", seed=i) for i in range(5)]

    async def check():
        async with cluster(decode_s=0.001) as c:
            return [piece async for piece in c.engine.generate(requests)]

    pieces = run(check())
    for request in requests:
        assert [p for p in pieces if p.request_id == request.id] == fused(request)
    assert pieces != [piece for request in requests for piece in fused(request)]


def test_a_first_token_that_ends_the_request_is_not_handed_over():
    request = make_request()
    end = make_request(stop_token_ids=tuple(fused(request)[0].token_ids))

    async def check():
        async with cluster() as c:
            assert await c.collect(end) == fused(end)
            c.assert_idle()
            assert not any(engine.taken_up for engine in c.decode)

    run(check())


def test_a_request_without_a_seed_gets_one_so_that_any_worker_could_go_on():
    async def check():
        async with cluster() as c:
            first, second = [await c.collect(make_request(seed=None)) for _ in range(2)]
            seen = [request for engine in c.prefill for request in engine.prefilled]
            assert all(request.params.seed is not None for request in seen)
            assert tokens_of(first) != tokens_of(second)

    run(check())


@everywhere
@pytest.mark.parametrize("role", ["prefill", "decode"])
@pytest.mark.parametrize("num_before", [0, 1, 5])
def test_a_worker_that_dies_is_replaced_and_nobody_sees_it(transport, role, num_before):
    request = make_request(max_tokens=20, prompt_logprobs=0)

    async def check():
        async with cluster(transport=transport, prefill_s=0.01, decode_s=0.005) as c:
            engines = getattr(c, role)
            pieces = []

            def kill():
                for engine in engines:
                    engine.is_dead |= bool(engine.running)

            if num_before == 0:
                asyncio.get_running_loop().call_later(0.005, kill)
            async for piece in c.engine.generate([request]):
                pieces.append(piece)
                if len(pieces) == num_before:
                    kill()
            await c.settle()
            c.assert_idle()
            has_died = any(engine.is_dead for engine in engines)
            assert c.engine.stats().num_retries == has_died
            return pieces

    assert run(check()) == fused(request)


def test_random_kills_change_no_token():
    requests = [make_request(f"r{i}", seed=i, max_tokens=15) for i in range(40)]

    async def check():
        chance = random.Random(0)
        async with cluster(
            num_prefill=3, num_decode=3, prefill_s=0.002, decode_s=0.002, max_failures=50
        ) as c:

            async def kill_and_revive():
                while True:
                    engine = chance.choice([*c.prefill[1:], *c.decode[1:]])
                    engine.is_dead = True
                    await asyncio.sleep(0.01)
                    engine.is_dead = False

            killing = asyncio.create_task(kill_and_revive())
            results = await asyncio.gather(*map(c.collect, requests))
            killing.cancel()
            await c.settle()
            c.assert_idle()
            assert c.engine.stats().num_retries > 3
            return results

    for request, pieces in zip(requests, run(check()), strict=True):
        assert tokens_of(pieces) == tokens_of(fused(request))
        assert pieces[-1].finish_reason == "length"


def test_a_dead_worker_with_places_is_not_tried_again_while_the_living_are_full():
    requests = [make_request(f"r{i}", seed=i, max_tokens=4) for i in range(40)]

    async def check():
        # The dead one comes back from its rest all the time, and always has a place.
        async with cluster(prefill_s=0.005, max_prefills=1, rest_s=0.001) as c:
            c.prefill[0].is_dead = True
            results = await asyncio.gather(*map(c.collect, requests))
            assert c.engine.stats().num_retries <= len(requests)
            return results

    assert run(check()) == [fused(request) for request in requests]


def test_when_all_workers_are_dead_the_request_ends_with_an_error():
    async def check():
        async with cluster(rest_s=0.3, max_failures=2) as c:
            for engine in c.prefill:
                engine.is_dead = True
            (piece,) = await c.collect(make_request())
            assert (piece.finish_reason, piece.token_ids) == ("error", ())
            assert piece.error == "The request could not be finished; try again later."
            assert c.engine.stats().num_failures["prefill-0"] > 0
            assert c.engine.is_healthy()  # Workers may come back: the server must not end.
            c.assert_idle()
            for engine in c.prefill:
                engine.is_dead = False
            assert await c.collect(make_request()) == fused(make_request())
        assert not c.engine.is_healthy()

    run(check())


@everywhere
def test_a_client_that_leaves_frees_everything(transport):
    async def check():
        async with cluster(transport=transport, prefill_s=0.01, decode_s=0.002) as c:
            for seconds in (0.0, 0.005, 0.02, 0.03):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await c.collect(make_request(f"after-{seconds}", max_tokens=1000))
                await asyncio.sleep(0.05)
                await c.settle()
                c.assert_idle()
            pieces = c.engine.generate([make_request("closed", max_tokens=1000)])
            for _ in range(3):
                await anext(pieces)
            await pieces.aclose()
            await c.settle()
            c.assert_idle()

    run(check())


@everywhere
def test_a_full_decode_worker_holds_up_prefilling(transport):
    requests = [make_request(f"r{i}", seed=i, max_tokens=30) for i in range(30)]

    async def check():
        async with cluster(
            transport=transport,
            num_decode=1,
            num_prefill=1,
            max_prefills=2,
            max_sequences=3,
            decode_s=0.001,
        ) as c:
            running = asyncio.gather(*map(c.collect, requests))
            await asyncio.sleep(0.05)
            # Three decode, two wait with their pages, nobody else was prefilled.
            num_ended = len(c.decode[0].taken_up) - len(c.decode[0].running)
            assert len(c.prefill[0].prefilled) <= num_ended + 3 + 2
            results = await running
            assert c.decode[0].most_running == 3
            assert c.decode[0].taken_up == [request.id for request in requests]
            c.assert_idle()
            return results

    assert run(check()) == [fused(request) for request in requests]


@pytest.mark.parametrize("num_fitting", [1, 3])
def test_what_was_prefilled_takes_no_more_memory_than_there_is(num_fitting):
    requests = [make_request(f"r{i}", seed=i, max_tokens=4) for i in range(12)]
    handover_bytes = FakePrefillEngine().handover_bytes(requests[0], earlier_ids=())

    async def check():
        async with cluster(
            num_prefill=1,
            num_decode=1,
            max_prefills=100,
            max_sequences=1,
            decode_s=0.002,
            room_bytes=(num_fitting + 1) * handover_bytes - 1,
        ) as c:
            results = await asyncio.gather(*map(c.collect, requests))
            assert c.prefill[0].most_unreleased == num_fitting
            c.assert_idle()
            return results

    assert run(check()) == [fused(request) for request in requests]


def test_a_client_that_leaves_while_its_prompt_waits_for_memory_leaves_nothing_behind():
    one = FakePrefillEngine().handover_bytes(make_request(), earlier_ids=())

    async def check():
        async with cluster(
            num_prefill=1, num_decode=1, max_sequences=1, decode_s=0.002, room_bytes=one
        ) as c:
            running = [
                asyncio.create_task(c.collect(make_request(f"r{i}", max_tokens=20)))
                for i in range(4)
            ]
            await asyncio.sleep(0.01)
            running[2].cancel()
            for i in (0, 1, 3):
                assert await running[i] == fused(make_request(f"r{i}", max_tokens=20))
            c.assert_idle()

    run(check())


def test_a_hand_over_that_never_fits_ends_its_request_alone():
    one = FakePrefillEngine().handover_bytes(make_request(), earlier_ids=())

    async def check():
        async with cluster(room_bytes=one, rest_s=0.01) as c:
            (piece,) = await c.collect(make_request("long", length=2000))
            assert piece.finish_reason == "error"
            assert await c.collect(make_request()) == fused(make_request())
            c.assert_idle()

    run(check())


def test_requests_that_can_never_run_are_refused_before_any_runs():
    def refuse(request):
        raise RequestError("The prompt is too long.", param="prompt")

    async def check():
        async with cluster(check_fn=refuse) as c:
            with pytest.raises(RequestError):
                await c.collect(make_request())
            assert not any(engine.prefilled for engine in c.prefill)

    run(check())


def test_too_many_waiting_requests_are_turned_away():
    async def check():
        async with cluster(max_waiting=3, num_decode=1, max_decodes=1, decode_s=0.01) as c:
            running = [asyncio.create_task(c.collect(make_request(f"r{i}"))) for i in range(4)]
            await asyncio.sleep(0.02)
            assert c.engine.stats().num_waiting == 3
            with pytest.raises(QueueFullError):
                await c.collect(make_request("late"))
            results = await asyncio.gather(*running)
            assert results == [fused(make_request(f"r{i}")) for i in range(4)]

    run(check())


def test_a_lower_priority_number_goes_first():
    async def check():
        order = []

        async def note(c, name, priority):
            request = dataclasses.replace(make_request(name, max_tokens=3), priority=priority)
            await c.collect(request)
            order.append(name)

        async with cluster(num_decode=1, max_decodes=1, decode_s=0.01) as c:
            tasks = [
                asyncio.create_task(note(c, name, p)) for name, p in [("a", 0), ("b", 2), ("c", 1)]
            ]
            await asyncio.gather(*tasks)
        return order

    assert run(check()) == ["a", "c", "b"]


def test_prompts_that_begin_alike_go_to_the_same_prefill_worker():
    async def check():
        beginnings = [tuple(range(i, i + 40)) for i in range(0, 1000, 100)]
        async with cluster(num_prefill=4) as c:
            for j in range(3):
                for i, beginning in enumerate(beginnings):
                    await c.collect(
                        Request(f"{i}-{j}", (*beginning, j), SamplingParams(seed=0, max_tokens=2))
                    )
            workers = {}
            for engine in c.prefill:
                for request in engine.prefilled:
                    workers.setdefault(request.prompt_ids[0], set()).add(engine)
            assert all(len(engines) == 1 for engines in workers.values())

    run(check())


def test_stats_sum_up_the_workers():
    async def check():
        async with cluster() as c:
            await c.collect(make_request(length=10))
            stats = c.engine.stats()
            assert stats.page_usage == 0.5
            assert (stats.num_preemptions, stats.num_compiles) == (4, 8)
            assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (10, 0)
            assert sum(stats.queue_time_s.counts) == sum(stats.prefill_time_s.counts) == 1

    run(check())
