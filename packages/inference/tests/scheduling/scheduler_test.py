"""The policy: who is computed when, who gives way, what is refused, and that nobody waits for ever."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from trellax.inference.requests import Constraint, Request, RequestError, SamplingParams
from trellax.inference.scheduling import Limits, SchedulerState, Status, StepPlan, plan_step

LIMITS = Limits(
    num_pages=101,
    page_size=4,
    max_sequences=4,
    max_length=64,
    max_tokens_per_step=16,
    prefill_chunk=8,
    max_prefill_rows=4,
)


def limits(**changes: Any) -> Limits:
    return dataclasses.replace(LIMITS, **changes)


def prompt(length: int, *, seed: int = 0) -> tuple[int, ...]:
    """Returns tokens that no other seed's prompt begins with."""
    return tuple(1000 * seed + i for i in range(length))


def request(name: str, length: int, max_tokens: int = 4, **kwargs: Any) -> Request:
    tokens = kwargs.pop("prompt_ids", prompt(length, seed=sum(map(ord, name))))
    features = {key: kwargs.pop(key) for key in ("constraint", "prompt_logprobs") if key in kwargs}
    return Request(name, tokens, SamplingParams(max_tokens=max_tokens, **features), **kwargs)


def step(state: SchedulerState, *, token: int = 7, late: bool = False) -> StepPlan:
    """Plans a step, applies it and, unless it is late, records one token for each row that draws."""
    plan = plan_step(state)
    state.apply(plan)
    if not late:
        record(state, plan, token=token)
    state.check_invariants()
    return plan


def record(state: SchedulerState, plan: StepPlan, *, token: int = 7) -> None:
    for row in plan.rows:
        sequence = state.record(row, (token,)) if row.draws else None
        if sequence is not None and sequence.has_all_tokens:
            state.finish(sequence.id, "length")


def run_to_the_end(state: SchedulerState, *, most: int = 500) -> int:
    """Returns how many steps it took."""
    for count in range(most):
        if not state.sequences:
            return count
        assert not step(state).is_empty
    raise AssertionError("did not end")


# What a step holds.


def test_decoding_goes_first_and_prompts_get_what_is_left() -> None:
    state = SchedulerState(limits(max_tokens_per_step=10, prefill_chunk=100))
    for name in "ab":
        state.add(request(name, 3))
    assert [c.end - c.start for c in step(state).prefill] == [3, 3]
    state.add(request("c", 20))
    plan = step(state)
    assert [row.request_id for row in plan.decode] == ["a", "b"]
    assert [(c.request_id, c.start, c.end) for c in plan.prefill] == [("c", 0, 8)]
    assert plan.num_tokens == 10


def test_a_prompt_is_computed_in_chunks_and_draws_with_its_last() -> None:
    state = SchedulerState(limits(max_tokens_per_step=8))
    state.add(request("a", 19))
    chunks = [step(state).prefill[0] for _ in range(3)]
    assert [(c.start, c.end, c.is_last) for c in chunks] == [
        (0, 8, False),
        (8, 16, False),
        (16, 19, True),
    ]
    assert tuple(itertools.chain(*(c.token_ids for c in chunks))) == state.sequences["a"].token_ids(
        0, 19
    )


def test_what_a_chunk_leaves_of_its_last_tile_counts() -> None:
    state = SchedulerState(limits(tile_length=4, max_tokens_per_step=18, prefill_chunk=100))
    for name, length in (("a", 5), ("b", 20), ("c", 3)):
        state.add(request(name, length))
    assert [(c.request_id, c.end) for c in step(state).prefill] == [("a", 5), ("b", 8)]
    plan = step(state)  # One token of a, 16 of the 17 that are left for tiles.
    assert [(c.request_id, c.end) for c in plan.prefill] == [("b", 20), ("c", 3)]


def test_no_more_prompts_than_rows() -> None:
    state = SchedulerState(limits(max_prefill_rows=2))
    for name in "abc":
        state.add(request(name, 2))
    assert [c.request_id for c in plan_step(state).prefill] == ["a", "b"]


def test_the_input_token_is_given_only_where_the_host_knows_it() -> None:
    state = SchedulerState(LIMITS)
    state.add(request("a", 3))
    first = step(state, late=True)
    second = step(state, late=True)
    assert second.decode[0].input_ids == () and second.decode[0].position == 3
    record(state, first, token=42)
    record(state, second, token=43)
    assert plan_step(state).decode[0].input_ids == (43,)


def test_block_tables_hold_the_pages_of_each_slot() -> None:
    state = SchedulerState(LIMITS)
    state.add(request("a", 6, 8))
    chunk = step(state).prefill[0]
    expected = np.zeros(LIMITS.max_pages, np.int32)
    expected[:2] = chunk.new_pages
    np.testing.assert_array_equal(state.block_tables[chunk.slot], expected)
    row = [step(state) for _ in range(3)][-1].decode[0]
    assert row.new_pages and state.block_tables[row.slot, 2] == row.new_pages[0]


def test_a_plan_is_only_for_the_state_it_was_made_from() -> None:
    state = SchedulerState(LIMITS)
    state.add(request("a", 3))
    plan = plan_step(state)
    state.abort("a")
    with pytest.raises(AssertionError, match="changed since"):
        state.apply(plan)


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
@pytest.mark.parametrize("ahead", [False, True])
def test_exactly_max_tokens_are_planned(max_tokens: int, ahead: bool) -> None:
    state = SchedulerState(LIMITS)
    sequence = state.add(request("a", 3, max_tokens))
    plans: list[StepPlan] = []
    for _ in range(max_tokens + 4):
        plans.append(step(state, late=True))
        if not ahead:
            record(state, plans[-1])
        elif len(plans) > 1:
            record(state, plans[-2])
    assert sum(row.draws for plan in plans for row in plan.rows) == max_tokens
    assert sequence.output_ids == [7] * max_tokens and sequence.finish_reason == "length"


def test_a_sequence_that_ended_takes_no_late_result() -> None:
    state = SchedulerState(LIMITS)
    state.add(request("a", 3))
    plan = step(state, late=True)
    state.abort("a")
    again = state.add(request("a", 3))
    assert state.record(plan.prefill[0], (7,)) is None
    assert again.output_ids == [], "the result is another request's, though its id is the same"


# Prefixes.


def test_a_cached_prefix_is_not_computed_again() -> None:
    state = SchedulerState(LIMITS)
    state.add(request("a", 10, prompt_ids=prompt(10)))
    run_to_the_end(state)
    assert state.num_cached(request("b", 10, prompt_ids=prompt(10))) == 8
    state.add(request("b", 10, prompt_ids=prompt(10)))
    chunk = step(state).prefill[0]
    assert (chunk.start, chunk.end, chunk.num_cached) == (8, 10, 8)
    assert (state.num_prefix_queries, state.num_prefix_hits) == (20, 8)
    assert state.sequences["b"].num_cached == 8


def test_one_token_at_least_is_computed() -> None:
    state = SchedulerState(LIMITS)
    for name in "ab":
        state.add(request(name, 8, prompt_ids=prompt(8)))
        run_to_the_end(state)
    assert state.num_prefix_hits == 4


def test_outputs_are_a_prefix_too() -> None:
    state = SchedulerState(LIMITS)
    state.add(request("a", 6, 8, prompt_ids=prompt(6)))
    run_to_the_end(state)
    assert state.num_cached(request("b", 0, prompt_ids=(*prompt(6), *[7] * 6))) == 8
    assert state.num_cached(request("c", 0, prompt_ids=(*prompt(6), *[7] * 12))) == 12


@pytest.mark.parametrize(
    "kwargs", [{"cache_salt": "other"}, {"prompt_logprobs": 0}], ids=["salt", "log-probabilities"]
)
def test_who_shares_no_prefix(kwargs: dict[str, Any]) -> None:
    state = SchedulerState(LIMITS)
    state.add(request("a", 10, prompt_ids=prompt(10)))
    run_to_the_end(state)
    other = request("b", 10, prompt_ids=prompt(10), **kwargs)
    assert state.num_cached(other) == 0
    state.add(other)
    assert plan_step(state).prefill[0].start == 0


def test_a_prompt_waits_for_a_page_that_another_is_computing() -> None:
    """Samples of one prompt compute it once, though they come together."""
    state = SchedulerState(limits(prefill_chunk=16))
    for name in "abcd":
        state.add(request(name, 13, prompt_ids=prompt(13)))
    assert [(c.request_id, c.start) for c in step(state).prefill] == [("a", 0)]
    assert [(c.request_id, c.start) for c in step(state).prefill] == [
        ("b", 12),
        ("c", 12),
        ("d", 12),
    ]


def test_nothing_is_shared_after_the_weights_change() -> None:
    state = SchedulerState(LIMITS)
    state.add(request("a", 10, 6, prompt_ids=prompt(10)))
    for _ in range(3):
        step(state)
    state.forget_prefixes()
    run_to_the_end(state)
    assert state.num_cached(request("b", 10, prompt_ids=(*prompt(10), *[7] * 6))) == 0


# Priorities, fairness and pre-emption.


def test_lower_priority_numbers_run_first_and_equal_ones_as_they_came() -> None:
    state = SchedulerState(limits(max_sequences=1, max_tokens_per_step=8))
    for name, priority in (("late", 1), ("first", 0), ("second", 0)):
        state.add(request(name, 3, 2, priority=priority))
    order: list[str] = []
    while state.sequences:
        order += [c.request_id for c in step(state).prefill]
    assert order == ["first", "second", "late"]


def test_a_higher_priority_takes_a_slot_and_the_lower_loses_nothing() -> None:
    state = SchedulerState(limits(max_sequences=1, max_tokens_per_step=16))
    low = state.add(request("low", 3, 6, priority=1))
    step(state)
    plan = step(state, late=True)  # A token of the lower one is in flight …
    state.add(request("high", 3, 2))
    assert step(state).preempted == ("low",)
    record(state, plan, token=9)
    assert low.output_ids == [7, 9]  # … and counts.
    run_to_the_end(state)
    assert low.output_ids == [7, 9, 7, 7, 7, 7] and low.finish_reason == "length"


def test_equal_priorities_do_not_take_slots() -> None:
    state = SchedulerState(limits(max_sequences=1, max_tokens_per_step=16))
    state.add(request("a", 3, 6))
    step(state)
    state.add(request("b", 3, 2))
    assert not step(state).preempted


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_the_last_to_come_gives_way_when_pages_run_out(preemption: Any) -> None:
    tight = limits(num_pages=8, preemption=preemption, max_swapped_pages=8)
    state = SchedulerState(tight)
    first, last = state.add(request("a", 8, 12)), state.add(request("b", 8, 12))
    plans: list[StepPlan] = []
    while not plans or not plans[-1].preempted:
        plans.append(step(state))
    assert plans[-1].preempted == ("b",) and first.status is Status.RUNNING
    expected = Status.SWAPPED if preemption == "swap" else Status.WAITING
    assert last.status is expected and state.num_preemptions == 1
    known = list(last.output_ids)
    run_to_the_end(state)
    assert last.output_ids[: len(known)] == known and len(last.output_ids) == 12
    assert state.num_swapped_pages == 0


def test_swapped_pages_come_back_where_it_stopped() -> None:
    state = SchedulerState(limits(num_pages=8, preemption="swap", max_swapped_pages=8))
    state.add(request("a", 8, 12))
    state.add(request("b", 8, 12))
    out = back = None
    while state.sequences:
        plan = step(state)
        out, back = (plan.swap_out or out), (plan.swap_in or back)
        if plan.swap_in:
            assert [row.request_id for row in plan.decode] == ["b"] and plan.decode[0].input_ids
    assert out and back and len(out[0].pages) == len(back[0].pages)


def test_host_memory_that_is_full_means_computing_again() -> None:
    state = SchedulerState(limits(num_pages=8, preemption="swap", max_swapped_pages=1))
    state.add(request("a", 8, 12))
    state.add(request("b", 8, 12))
    plan = step(state)
    while not plan.preempted:
        plan = step(state)
    assert not plan.swap_out and state.sequences["b"].status is Status.WAITING
    run_to_the_end(state)


def test_a_long_prompt_is_not_overtaken_for_ever() -> None:
    """Short requests keep coming; the long one that came before them starts when those that ran have ended."""
    state = SchedulerState(limits(num_pages=16, max_length=60))
    for name in "abc":
        state.add(request(name, 4, 4))
    step(state)
    state.add(request("long", 40, 8))
    for count in itertools.count():
        state.add(request(f"short{count}", 4, 4))
        plan = step(state)
        started = {row.request_id for row in plan.rows}
        if "long" in started:
            break
        assert not any(name.startswith("short") for name in started), "overtaken"
        assert count < 10, "starved"


def test_a_short_prompt_passes_longer_ones_that_wait_and_one_in_its_chunks() -> None:
    state = SchedulerState(limits(patience=2))
    for name, length in (("a", 40), ("b", 30), ("c", 5)):
        state.add(request(name, length))
    assert [c.request_id for c in step(state).prefill] == ["c", "b", "a"]
    state.add(request("d", 6))
    assert [c.request_id for c in step(state).prefill][:2] == ["d", "b"]


def test_a_long_prompt_is_due_before_short_ones_that_come_later_and_later() -> None:
    """Those that come before 24 tokens are computed are due before it: four at the start, four after a step of 16."""
    state = SchedulerState(limits(patience=2, max_queued_requests=None))
    state.add(request("long", 20, 1))
    for count in range(100):
        if "long" not in state.sequences:
            break
        for i in range(4):
            state.add(request(f"{count}.{i}", 8, 1))
        step(state)
    assert state.num_planned_tokens <= 8 * 8 + 20 + 16


def test_what_is_cached_does_not_count_as_length() -> None:
    state = SchedulerState(limits(patience=2))
    state.add(request("a", 33, prompt_ids=prompt(33), max_tokens=1))
    while state.sequences:
        step(state)
    state.add(request("b", 20, prompt_ids=prompt(20, seed=5)))
    state.add(request("c", 34, prompt_ids=prompt(34)))
    assert [c.request_id for c in step(state).prefill] == ["c", "b"]


def test_a_lower_priority_gets_on_when_no_higher_one_wants_its_place() -> None:
    state = SchedulerState(limits(max_sequences=2))
    low = state.add(request("low", 4, 10, priority=5))
    for count in range(12):  # One at a time leaves a slot.
        state.add(request(f"high{count}", 4, 1))
        step(state)
    assert low.finish_reason == "length" and state.num_preemptions == 0


def test_a_running_sequence_without_pages_keeps_newcomers_out() -> None:
    """What becomes free is for who is there, even if it is too little yet and would do for a newcomer."""
    drafts = {"num_draft_tokens": 4, "max_tokens_per_step": 20}
    state = SchedulerState(limits(num_pages=13, page_size=1, **drafts))
    for name in "ab":
        state.add(request(name, 2, 11))
    step(state)
    state.add(request("c", 1, 1))
    plan = step(state)
    assert [row.request_id for row in plan.decode] == [
        "a"
    ], "three pages are left, and b takes five"
    assert not plan.prefill
    run_to_the_end(state)


def test_newcomers_are_not_started_to_be_preempted_at_once() -> None:
    """Pages for the whole prompt, what running prompts still need, and one for each that runs must be there."""
    state = SchedulerState(limits(num_pages=11))
    state.add(request("a", 20, 4))
    state.add(
        request("b", 20, 4)
    )  # Five pages; "a" takes two now, three more, and another when it decodes.
    assert [c.request_id for c in step(state).prefill] == ["a"]
    run_to_the_end(state)
    assert state.num_preemptions == 0


def test_nobody_is_preempted_for_pages_that_are_shared_with_the_newcomer() -> None:
    """They would not be free: the newcomer itself needs them."""
    state = SchedulerState(limits(num_pages=9, prefill_chunk=16, max_tokens_per_step=32))
    state.add(request("middle", 9, 3))
    state.add(request("low", 13, 3, prompt_ids=prompt(13), priority=1))
    step(state)
    assert state.pages.num_available == 1
    state.add(request("high", 20, 2, prompt_ids=(*prompt(8), *prompt(12, seed=1))))
    assert not plan_step(state).preempted
    run_to_the_end(state)


# Speculation, grammars, and steps that do not depend on each other.


def test_a_draft_takes_budget_and_pages_and_gives_up_to_its_number() -> None:
    state = SchedulerState(limits(num_draft_tokens=3))
    sequence = state.add(request("a", 4, 10))
    step(state)
    plan = step(state, late=True)
    row = plan.decode[0]
    assert (row.position, row.num_tokens, row.input_ids) == (4, 4, (7,))
    assert plan_step(state).is_empty, "the next draft follows from tokens that are not known"
    state.record(row, (1, 2, 3))
    assert sequence.output_ids == [7, 1, 2, 3] and sequence.num_computed == 7
    assert plan_step(state).decode[0].position == 7


def test_a_draft_ends_where_max_tokens_do() -> None:
    state = SchedulerState(limits(num_draft_tokens=3))
    state.add(request("a", 4, 3))
    step(state)
    assert plan_step(state).decode[0].num_tokens == 2


def test_a_grammar_waits_for_the_token_before() -> None:
    state = SchedulerState(LIMITS)
    state.add(request("a", 4, 3, constraint=Constraint("json_object")))
    state.add(request("b", 4, 3))
    plan = step(state, late=True)
    assert [row.request_id for row in step(state, late=True).decode] == ["b"]
    record(state, plan)
    assert "a" in [row.request_id for row in plan_step(state).decode]


def test_aligned_chunks_are_the_same_whatever_else_runs() -> None:
    aligned = limits(chunk_alignment=8, prefill_chunk=8, max_tokens_per_step=13)

    def chunks(others: int) -> list[tuple[int, int]]:
        state = SchedulerState(aligned)
        for index in range(others):
            state.add(request(f"other{index}", 3 + index, 9))
            step(state)
        state.add(request("a", 29, prompt_ids=prompt(29)))
        found = []
        while state.sequences:
            found += [(c.start, c.end) for c in step(state).prefill if c.request_id == "a"]
        return found

    assert chunks(0) == chunks(1) == chunks(3) == [(0, 8), (8, 16), (16, 24), (24, 29)]


def test_aligned_chunks_begin_after_an_aligned_part_of_a_cached_prefix() -> None:
    state = SchedulerState(limits(chunk_alignment=8, prefill_chunk=8))
    state.add(request("a", 14, prompt_ids=prompt(14)))
    run_to_the_end(state)
    assert state.num_cached(request("b", 14, prompt_ids=prompt(14))) == 8


# Sequences that go elsewhere or come from there.


def test_pages_of_a_sequence_that_was_handed_over_stay_until_they_are_released() -> None:
    state = SchedulerState(limits(prefill_only=True, num_pages=5))
    state.add(request("a", 10, 20))
    step(state)
    step(state)
    assert plan_step(state).is_empty, "nothing is decoded here"
    pages = state.hand_over("a")
    assert len(pages) == 3 and not state.sequences
    with pytest.raises(RequestError, match="id"):
        state.add(request("a", 3))
    state.add(request("b", 8, 20))
    assert plan_step(state).is_empty, "there is no room yet"
    state.release("a")
    assert [c.request_id for c in plan_step(state).prefill] == ["b"]
    state.check_invariants()


def test_a_received_sequence_decodes_at_once() -> None:
    state = SchedulerState(LIMITS)
    pages = state.add_received(request("a", 10, 3), (5,))
    assert pages is not None and len(pages) == 3
    row = step(state).decode[0]
    assert (row.position, row.input_ids) == (10, (5,))
    assert state.num_cached(state.sequences["a"].request) == 8, "its pages are shared from then on"
    step(state)
    assert not state.sequences


def test_a_received_sequence_finds_room_or_comes_again() -> None:
    state = SchedulerState(limits(num_pages=6, max_sequences=2))
    assert state.add_received(request("a", 10, 3), (5,))
    assert state.add_received(request("b", 10, 3), (5,)) is None, "pages"
    assert state.add_received(request("c", 4, 3), (5,))
    assert state.add_received(request("d", 1, 3), (5,)) is None, "slots"
    run_to_the_end(state)
    state.add(request("e", 4))
    assert state.add_received(request("f", 1, 3), (5,)) is None, "another waits"
    assert state.add_received(request("g", 1, 3, priority=-1), (5,))
    state.check_invariants()


# What is refused.


def test_a_prompt_of_max_length_is_refused() -> None:
    state = SchedulerState(LIMITS)
    with pytest.raises(RequestError, match=r"64 tokens.*at most 64.*63") as error:
        state.add(request("a", 64, 1))
    assert error.value.param == "prompt"
    state.add(request("a", 63, 1))


def test_more_tokens_than_max_length_are_refused() -> None:
    with pytest.raises(RequestError, match=r"60 tokens.*is 5, 65 together.*64.*at most 4") as error:
        SchedulerState(LIMITS).add(request("a", 60, 5))
    assert error.value.param == "max_tokens"


def test_what_does_not_fit_into_all_pages_is_refused() -> None:
    state = SchedulerState(limits(num_pages=5))
    with pytest.raises(RequestError, match=r"5 pages of 4 tokens and there are 4.*"):
        state.add(request("a", 10, 8))
    state.add(request("a", 10, 7))
    run_to_the_end(state)


def test_the_most_that_is_promised_for_too_few_pages_is_accepted() -> None:
    """The message names a sum that works."""
    tight = limits(num_pages=5)
    with pytest.raises(RequestError, match=r"At most 17 tokens together"):
        tight.check(request("a", 10, 8))
    tight.check(request("a", 10, 7))


def test_an_id_in_use_is_refused() -> None:
    state = SchedulerState(LIMITS)
    state.add(request("a", 3))
    with pytest.raises(RequestError, match="'a' is running"):
        state.add(request("a", 3))


def test_a_full_queue_says_what_is_full() -> None:
    state = SchedulerState(limits(max_queued_requests=2, max_queued_tokens=20))
    assert state.admission(request("a", 30)) is None, "an empty queue takes any"
    state.add(request("a", 12))
    error = state.admission(request("b", 9))
    assert error is not None and (error.kind, error.limit, error.actual) == ("tokens", 20, 21)
    state.add(request("b", 8))
    assert (state.queued().requests, state.queued().tokens) == (2, 20)
    error = state.admission(request("c", 1))
    assert error is not None and (error.kind, error.limit, error.actual) == ("requests", 2, 3)
    step(state)
    assert state.queued().requests == 0 and state.admission(request("c", 1)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_pages": 1}, "num_pages is 1; it must be at least 2"),
        ({"max_tokens_per_step": 3}, "max_tokens_per_step is 3; it must be at least 4"),
        ({"num_draft_tokens": 4}, "max_tokens_per_step is 16; it must be at least 20"),
        ({"chunk_alignment": 6}, "chunk_alignment is 6; it must be a multiple of page_size 4"),
        ({"chunk_alignment": 4, "prefill_chunk": 6}, "multiple of chunk_alignment 4"),
        ({"chunk_alignment": 16, "prefill_chunk": 16}, "it must be at least 19"),
    ],
)
def test_limits_that_could_not_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        limits(**changes)
