"""Requests go to who has computed their beginning, unless another has much less to do."""

import asyncio
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disaggregation.clusters import run
from trellax.inference.disaggregation.affinity import PrefixAffinity
from trellax.inference.disaggregation.pool import WorkerPool, choose
from trellax.inference.requests import Request

names = st.sampled_from("abcd")
loads = st.dictionaries(names, st.integers(0, 100), min_size=1)


@given(loads, st.lists(names), st.integers(0, 100))
def test_a_worker_that_is_chosen_is_preferred_or_least_loaded(loads, preferred, slack):
    chosen, least = choose(loads, preferred=preferred, slack=slack), min(loads.values())
    assert loads[chosen] == least or (chosen in preferred and loads[chosen] <= least + slack)


def test_the_best_of_the_preferred_is_chosen_within_the_slack():
    loads = {"a": 5, "b": 20, "c": 10}
    assert choose(loads) == "a"
    assert choose(loads, preferred=["b", "c"], slack=15) == "b"
    assert choose(loads, preferred=["b", "c"], slack=14) == "c"
    assert choose(loads, preferred=["b", "c"], slack=4) == "a"


def request_of(tokens, *, salt=""):
    return Request("r", tuple(tokens), cache_salt=salt)


def test_the_longest_beginning_in_common_counts_most():
    affinity = PrefixAffinity(page_size=4)
    affinity.note(request_of([1] * 8 + [2] * 8), "short")
    affinity.note(request_of([1] * 16), "long")
    assert affinity.ranked(request_of([1] * 20)) == ["long"]
    assert affinity.ranked(request_of([1] * 8 + [2] * 12)) == ["short", "long"]
    assert affinity.ranked(request_of([1] * 8 + [3] * 12)) == ["long"]
    assert affinity.ranked(request_of([1] * 3)) == []
    assert affinity.ranked(request_of([2] * 20)) == []
    assert affinity.ranked(request_of([1] * 20, salt="tenant")) == []


def test_what_was_used_longest_ago_is_forgotten():
    affinity = PrefixAffinity(page_size=1, max_entries=8)
    for token in range(20):
        affinity.note(request_of([token]), f"{token}")
    assert [affinity.ranked(request_of([token])) for token in (11, 12, 19)] == [[], ["12"], ["19"]]


def worker(name, max_running=1):
    return types.SimpleNamespace(name=name, max_running=max_running)


async def hold(pool, order, name, released, **options):
    async with pool.take(load=1, **options) as taken:
        order.append((name, taken.name))
        await released.wait()


def test_places_are_never_more_than_a_worker_has():
    async def check():
        pool = WorkerPool([worker("a", 2), worker("b", 1)], slack=0, rest_s=1.0)
        order, released = [], asyncio.Event()
        tasks = [asyncio.create_task(hold(pool, order, i, released)) for i in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == [(0, "a"), (1, "b"), (2, "a")]
        assert pool.num_waiting == 2
        tasks[3].cancel()  # One that waits gives its place in the queue up.
        released.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [name for name, _ in order] == [0, 1, 2, 4]
        assert pool.num_waiting == 0

    run(check())


def test_a_worker_that_has_failed_rests_and_comes_back():
    async def check():
        tired, fresh = worker("a", 10), worker("b", 1)
        pool = WorkerPool([tired, fresh], slack=0, rest_s=0.05)
        order, released = [], asyncio.Event()
        released.set()
        pool.fail(tired)
        await hold(pool, order, 0, released)
        assert order == [(0, "b")]
        await asyncio.sleep(0.06)
        await hold(pool, order, 1, released)
        assert order[1] == (1, "a")
        assert pool.num_failures == {"a": 1, "b": 0}

    run(check())


def test_who_avoids_a_worker_waits_for_others_and_holds_up_nobody():
    async def check():
        full, avoided = worker("a", 1), worker("b", 1)
        pool = WorkerPool([full, avoided], slack=0, rest_s=10.0)
        order, released, at_once = [], asyncio.Event(), asyncio.Event()
        at_once.set()
        tasks = [
            asyncio.create_task(hold(pool, order, "first", released)),
            asyncio.create_task(hold(pool, order, "avoids", at_once, avoided={"b"})),
            asyncio.create_task(hold(pool, order, "later", at_once)),
        ]
        await asyncio.sleep(0.01)
        assert order == [("first", "a"), ("later", "b")]
        released.set()
        await asyncio.gather(*tasks)
        assert order[2] == ("avoids", "a")
        pool.fail(full)  # Now there is no other.
        await hold(pool, order, "avoids", at_once, avoided={"b"})
        assert order[3] == ("avoids", "b")

    run(check())


def test_two_workers_of_one_name_are_a_mistake():
    with pytest.raises(AssertionError, match="two workers have the same name"):
        WorkerPool([worker("a"), worker("a")], slack=0, rest_s=1.0)
