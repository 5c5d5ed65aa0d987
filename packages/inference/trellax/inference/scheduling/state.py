"""`SchedulerState`: who waits, who runs, and who holds which pages.

    state = SchedulerState(limits)
    state.add(request)
    plan = plan_step(state)                 # changes nothing
    state.apply(plan)                       # binds pages and slots; now let the device compute the plan, …
    state.record(plan.decode[0], (17,))     # … and tell what it drew, any number of plans later
    state.finish(request.id, "stop")

Pages of a sequence that ends or is pre-empted are free at once, though a step that is being computed may still write to them:
the device computes steps in order, so whoever gets the pages writes later.
"""

from __future__ import annotations

import bisect
import heapq
import operator
from collections.abc import Sequence as Sequenced
from typing import Literal

import numpy as np

from trellax.inference.requests import FinishReason, Request, RequestError
from trellax.inference.scheduling.limits import AdmissionError, Limits, QueueSize
from trellax.inference.scheduling.pages import PageManager
from trellax.inference.scheduling.plans import DecodeRow, PrefillChunk, StepPlan, Swap
from trellax.inference.scheduling.prefixes import page_keys, root_key
from trellax.inference.scheduling.sequence import Sequence, Status

_rank = operator.attrgetter("rank")


class SchedulerState:
    """All that plans are made from.

    Attributes:
        limits: what plans keep to.
        pages: the account of pages.
        sequences: all that have not ended, by id.
        waiting: the queue, best rank first.
        running: sequences with a slot, best rank first.
        free_slots: a heap, the lowest in front.
        block_tables: int32 [max_sequences, max_pages], the pages of each slot's sequence; 0, the null page, elsewhere.
        num_swapped_pages: pages in host memory.
        num_preemptions: so far.
        num_prefix_queries: tokens of prompts that were looked up among cached prefixes so far.
        num_prefix_hits: those that were found.
        num_planned_tokens: tokens of all steps so far: the clock by which requests are due.
        version: changes with every change.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.pages = PageManager(limits.num_pages, limits.page_size)
        self.sequences: dict[str, Sequence] = {}
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.free_slots = list(range(limits.max_sequences))
        self.block_tables = np.zeros((limits.max_sequences, limits.max_pages), np.int32)
        self.num_swapped_pages = self.num_preemptions = 0
        self.num_prefix_queries = self.num_prefix_hits = self.num_planned_tokens = 0
        self.version = 0
        self._num_arrivals = self._queued_tokens = 0
        self._handed_over: dict[str, Sequence] = {}

    # Requests come.

    def queued(self) -> QueueSize:
        """Returns what waits."""
        return QueueSize(len(self.waiting), self._queued_tokens)

    def admission(self, request: Request) -> AdmissionError | None:
        """Returns why the queue is too full for a request, None if it is not. An empty queue takes any."""
        size, limits = self.queued(), self.limits
        if not size.requests:
            return None
        bounds: tuple[tuple[Literal["requests", "tokens"], int | None, int], ...] = (
            ("requests", limits.max_queued_requests, size.requests + 1),
            ("tokens", limits.max_queued_tokens, size.tokens + len(request.prompt_ids)),
        )
        for kind, limit, actual in bounds:
            if limit is not None and actual > limit:
                return AdmissionError(kind=kind, limit=limit, actual=actual)
        return None

    def add(self, request: Request) -> Sequence:
        """Puts a request into the queue.

        Raises: RequestError if it could never run, or if its id is in use.
        """
        sequence = self._new_sequence(request)
        num_left = sequence.prompt_length - self._num_found(request, sequence.keys)
        sequence.set_due(self.num_planned_tokens + self.limits.patience * num_left)
        self._register_sequence(sequence)
        self._enqueue(sequence)
        return sequence

    def add_received(
        self, request: Request, first_output_ids: tuple[int, ...]
    ) -> tuple[int, ...] | None:
        """Takes up a sequence whose prompt was computed and whose first tokens were drawn elsewhere.

        It runs at once, so what waits and is of the same or a better rank goes first.

        Returns: The pages for the keys and values of all its tokens but the last, which are to be written before the next step;
            None if there is no room yet.

        Raises: RequestError if it could never run, or if its id is in use.
        """
        sequence = self._new_sequence(request)
        sequence.set_due(self.num_planned_tokens)
        assert 1 <= len(first_output_ids) < sequence.max_outputs, first_output_ids
        num_computed = sequence.prompt_length + len(first_output_ids) - 1
        num_pages = self.limits.pages_for(num_computed)
        ahead = self.waiting and self.waiting[0].rank < sequence.rank
        # A page for each that runs is left, as in the planner, lest the newcomer be pre-empted in the next step.
        if ahead or not self.free_slots or num_pages + len(self.running) > self.pages.num_available:
            return None
        draft = self.pages.draft()
        pages = draft.allocate(num_pages)
        self.pages.commit(draft.change())
        self._register_sequence(sequence)
        sequence.extend(first_output_ids)
        sequence.num_planned_outputs = len(first_output_ids)
        sequence.num_computed, sequence.num_cached = num_computed, 0
        self._start(sequence, self.free_slots[0])
        self._bind(sequence, pages)
        return tuple(pages)

    def num_cached(self, request: Request) -> int:
        """Returns how many tokens of a prompt the cache would serve now."""
        if not self.limits.share_prefixes:
            return 0
        root = root_key(request.cache_salt)
        keys = page_keys(request.prompt_ids, page_size=self.limits.page_size, parent=root)
        return self._num_found(request, keys)

    def _num_found(self, request: Request, keys: list[bytes]) -> int:
        limits = self.limits
        found = self.pages.find(keys[: num_matchable(request, len(request.prompt_ids), limits)])
        return aligned_pages(len(found), limits) * limits.page_size

    # Steps are planned and come back.

    def apply(self, plan: StepPlan) -> None:
        """Makes a plan real: binds pages and slots and counts its tokens. The plan must be of this very state."""
        assert plan.version == self.version, "the state has changed since the plan was made"
        self.version += 1
        swapped = {swap.request_id for swap in plan.swap_out}
        for request_id in plan.preempted:
            self._preempt(self.sequences[request_id], swap=request_id in swapped)
        self.pages.commit(plan.page_change)
        swapped_in = {swap.request_id: swap for swap in plan.swap_in}
        for row in plan.rows:
            sequence = self.sequences[row.request_id]
            if sequence.slot is None:
                self._admit(sequence, row, swapped_in.get(row.request_id))
            if row.new_pages:
                self._bind(sequence, row.new_pages)
            self._count(sequence, row)

    def record(self, row: DecodeRow | PrefillChunk, token_ids: tuple[int, ...]) -> Sequence | None:
        """Takes in the tokens that a row has drawn, in the order of the steps: one, or up to the row's number with a draft.

        Returns: The sequence, whatever it does now; None if it has ended.
        """
        assert row.draws, row
        sequence = self.sequences.get(row.request_id)
        if sequence is None or sequence.arrival != row.arrival:
            return None
        assert 1 <= len(token_ids) <= getattr(row, "num_tokens", 1), (row, token_ids)
        assert sequence.has_results_in_flight, row
        self.version += 1
        sequence.extend(token_ids)
        # One was counted when the row was planned.
        sequence.num_planned_outputs += len(token_ids) - 1
        if sequence.status is not Status.WAITING:
            sequence.num_computed += len(token_ids) - 1
        if sequence.status is Status.RUNNING:
            self._register(sequence)
        return sequence

    # Sequences end.

    def finish(self, request_id: str, reason: FinishReason) -> Sequence:
        """Ends a sequence and frees what it holds. Results in flight are ignored when they come.

        Raises: KeyError if there is no such sequence.
        """
        self.version += 1
        sequence = self.sequences.pop(request_id)
        if sequence.status is Status.RUNNING:
            self._stop(sequence)
            self.pages.release(sequence.pages)
        else:
            self._dequeue(sequence)
        self.num_swapped_pages -= sequence.num_swapped
        sequence.pages, sequence.num_swapped = [], 0
        sequence.status, sequence.finish_reason = Status.FINISHED, reason
        return sequence

    def abort(self, request_id: str) -> Sequence | None:
        """Ends a sequence that nobody waits for any more; None if it has ended already."""
        return self.finish(request_id, "abort") if request_id in self.sequences else None

    def hand_over(self, request_id: str) -> tuple[int, ...]:
        """Takes a running sequence out, to go on elsewhere, and keeps its pages until `release`.

        Returns: Its pages.
        """
        self.version += 1
        sequence = self.sequences.pop(request_id)
        assert sequence.status is Status.RUNNING and not sequence.has_results_in_flight, request_id
        self._stop(sequence)
        sequence.status = Status.HANDED_OVER
        self._handed_over[request_id] = sequence
        return tuple(sequence.pages)

    def release(self, request_id: str) -> None:
        """Frees the pages of a sequence that was handed over.

        Raises: KeyError if there is no such sequence.
        """
        self.version += 1
        sequence = self._handed_over.pop(request_id)
        self.pages.release(sequence.pages)
        sequence.pages = []

    def forget_prefixes(self) -> None:
        """Shares nothing that was computed up to now: after new weights, or a step that failed."""
        self.version += 1
        self.pages.forget()
        for sequence in self.sequences.values():
            sequence.is_shareable = False

    def check_invariants(self) -> None:
        """Asserts that nothing is held twice, lost or miscounted."""
        running, waiting = self.running, self.waiting
        assert {*map(id, running), *map(id, waiting)} == set(map(id, self.sequences.values()))
        assert len(running) + len(waiting) == len(self.sequences), "a sequence is in two places"
        for queue in (running, waiting):
            assert [s.rank for s in queue] == sorted(s.rank for s in queue), "order of ranks"
        slots = [sequence.slot for sequence in running if sequence.slot is not None]
        assert sorted([*slots, *self.free_slots]) == list(range(self.limits.max_sequences)), slots
        assert all(s.slot is None and not s.pages for s in waiting), "who waits holds something"
        computed = [s for s in waiting if s.num_computed]
        assert all(s.status is Status.SWAPPED for s in computed), "computed, and kept nowhere"
        assert self.num_swapped_pages == sum(s.num_swapped for s in waiting), "swapped pages"
        assert self._queued_tokens == sum(s.prompt_length for s in waiting), "queued tokens"
        expected = np.zeros_like(self.block_tables)
        for sequence in running:
            expected[sequence.slot, : len(sequence.pages)] = sequence.pages
            assert sequence.num_computed <= len(sequence.pages) * self.limits.page_size, sequence.id
        assert (expected == self.block_tables).all(), "block tables"
        holders = [*running, *self._handed_over.values()]
        self.pages.check_invariants(sequence.pages for sequence in holders)

    # How sequences move.

    def _new_sequence(self, request: Request) -> Sequence:
        self.limits.check(request)
        if request.id in self.sequences or request.id in self._handed_over:
            raise RequestError(f"A request with id {request.id!r} is running; use another id.")
        return Sequence(
            request,
            arrival=self._num_arrivals,
            max_outputs=self.limits.max_outputs(request),
            page_size=self.limits.page_size,
            is_shareable=self.limits.share_prefixes,
        )

    def _register_sequence(self, sequence: Sequence) -> None:
        self.version += 1
        self._num_arrivals += 1
        self.sequences[sequence.id] = sequence

    def _enqueue(self, sequence: Sequence) -> None:
        bisect.insort(self.waiting, sequence, key=_rank)
        self._queued_tokens += sequence.prompt_length

    def _dequeue(self, sequence: Sequence) -> None:
        del self.waiting[bisect.bisect_left(self.waiting, sequence.rank, key=_rank)]
        self._queued_tokens -= sequence.prompt_length

    def _start(self, sequence: Sequence, slot: int) -> None:
        self.free_slots.remove(slot)
        heapq.heapify(self.free_slots)
        sequence.slot, sequence.status = slot, Status.RUNNING
        bisect.insort(self.running, sequence, key=_rank)

    def _stop(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        del self.running[bisect.bisect_left(self.running, sequence.rank, key=_rank)]
        self.block_tables[sequence.slot] = 0
        heapq.heappush(self.free_slots, sequence.slot)
        sequence.slot = None

    def _preempt(self, sequence: Sequence, *, swap: bool) -> None:
        """Sends a running sequence back to the queue; its pages are in the plan's change."""
        self._stop(sequence)
        if swap:
            sequence.status, sequence.num_swapped = Status.SWAPPED, len(sequence.pages)
            self.num_swapped_pages += sequence.num_swapped
        else:
            sequence.status, sequence.num_computed = Status.WAITING, 0
        sequence.pages, sequence.num_registered = [], 0
        self.num_preemptions += 1
        self._enqueue(sequence)

    def _admit(self, sequence: Sequence, row: DecodeRow | PrefillChunk, swap: Swap | None) -> None:
        self._dequeue(sequence)
        self._start(sequence, row.slot)
        if swap is not None:
            self.num_swapped_pages -= sequence.num_swapped
            sequence.num_swapped = 0
            self._bind(sequence, swap.pages)
            return
        start = row.start if isinstance(row, PrefillChunk) else row.position
        sequence.num_computed = start
        sequence.num_registered = start // self.limits.page_size
        if sequence.num_cached is None:
            sequence.num_cached = start
            self.num_prefix_queries += sequence.prompt_length
            self.num_prefix_hits += start

    def _bind(self, sequence: Sequence, pages: Sequenced[int]) -> None:
        held = len(sequence.pages)
        self.block_tables[sequence.slot, held : held + len(pages)] = pages
        sequence.pages.extend(pages)

    def _count(self, sequence: Sequence, row: DecodeRow | PrefillChunk) -> None:
        computed = row.end if isinstance(row, PrefillChunk) else row.position + 1
        self.num_planned_tokens += computed - sequence.num_computed
        sequence.num_computed = computed
        sequence.num_planned_outputs += row.draws
        self._register(sequence)

    def _register(self, sequence: Sequence) -> None:
        """Lets others find the pages that are full of known tokens, once they are computed."""
        if not sequence.is_shareable:
            return
        full = min(sequence.num_computed, sequence.num_known) // self.limits.page_size
        for index in range(sequence.num_registered, full):
            self.pages.register(sequence.pages[index], sequence.keys[index])
        sequence.num_registered = max(sequence.num_registered, full)


def num_matchable(request: Request, num_known: int, limits: Limits) -> int:
    """Returns how many pages at the front of so many tokens a cached prefix may serve.

    One token at least is computed, as the next is drawn from it; log-probabilities of a prompt need all of it.
    """
    if request.params.prompt_logprobs is not None:
        return 0
    return (num_known - 1) // limits.page_size


def aligned_pages(num_pages: int, limits: Limits) -> int:
    """Returns the most pages, up to so many, after which a chunk may begin."""
    if limits.chunk_alignment is None:
        return num_pages
    return num_pages - num_pages % (limits.chunk_alignment // limits.page_size)
