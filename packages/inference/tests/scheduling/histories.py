"""Histories of a scheduler: what clients, the device and accidents do to it, drawn from a string of bytes.

    run_history(data, kind="swap")      # asserts all along that everything is as it should be

Hypothesis draws the bytes and shortens those that fail. Each byte decides one thing; when they are used up, nothing new happens
and whatever runs must end.
"""

from __future__ import annotations

import collections
import dataclasses

from tests.scheduling.device import History, SimulatedDevice
from trellax.inference.requests import Constraint, FinishReason, Request, SamplingParams
from trellax.inference.scheduling import (
    DecodeRow,
    Limits,
    PrefillChunk,
    SchedulerState,
    Status,
    StepPlan,
    plan_step,
)

END_TOKEN = 0
SALTS = ("", "a")
KINDS = ("plain", "swap", "draft", "aligned", "prefill", "received")


class Choices:
    """Bytes, one a decision; zeros when they are used up."""

    def __init__(self, data: bytes):
        self._bytes = iter(data)
        self.are_left = True

    def below(self, bound: int) -> int:
        """Returns a number from 0."""
        value = next(self._bytes, None)
        if value is None:
            self.are_left = False
            return 0
        return value % bound

    def between(self, least: int, most: int) -> int:
        """Returns a number, both bounds included."""
        return least + self.below(most - least + 1)


def drawn_limits(choices: Choices, kind: str) -> Limits:
    """Returns limits so tight that pages, slots and tokens run out all the time."""
    page_size = choices.between(1, 4)
    max_sequences = 1 + choices.between(0, 9) // 3
    num_draft_tokens = choices.between(1, 3) if kind == "draft" else 0
    chunk = choices.between(1, 6)
    alignment, tile = None, 1 + choices.below(3) // 2
    if kind == "aligned":
        alignment = page_size * choices.between(1, 2)
        chunk = alignment * choices.between(1, 2)
    return Limits(
        num_pages=1 + choices.between(2, 12),
        page_size=page_size,
        max_sequences=max_sequences,
        max_length=24,
        max_tokens_per_step=max_sequences * (1 + num_draft_tokens)
        + chunk
        + tile
        + choices.below(4),
        prefill_chunk=chunk,
        max_prefill_rows=choices.between(1, 3),
        tile_length=tile,
        chunk_alignment=alignment,
        num_draft_tokens=num_draft_tokens,
        preemption="swap" if kind == "swap" else "recompute",
        max_swapped_pages=choices.below(16) if kind == "swap" else 0,
        share_prefixes=choices.below(5) > 0,
        prefill_only=kind == "prefill",
        patience=choices.below(3),
    )


@dataclasses.dataclass
class Ending:
    """How a request that was added ended."""

    request: Request
    reasons: list[str] = dataclasses.field(default_factory=list)
    num_outputs: int = 0


class Simulation:
    """A scheduler, a device and what goes on between them.

    Attributes:
        in_flight: results of steps that the host does not know yet, oldest first.
        endings: of all that were ever added, by arrival.
        pinned: arrival, pages and number of keys of sequences that were handed over, by id.
        num_swaps: sequences that came back from host memory.
    """

    def __init__(self, choices: Choices, kind: str):
        self.choices, self.kind = choices, kind
        self.limits = drawn_limits(choices, kind)
        self.state = SchedulerState(self.limits)
        self.device = SimulatedDevice(self.limits)
        self.in_flight: collections.deque[
            list[tuple[DecodeRow | PrefillChunk, tuple[int, ...]]]
        ] = collections.deque()
        self.endings: dict[int, Ending] = {}
        self.pinned: dict[str, tuple[int, tuple[int, ...], int]] = {}
        self.num_swaps = 0

    # What may happen.

    def add(self) -> None:
        request = self.drawn_request()
        if request is None:
            return
        if self.kind == "received" and self.choices.below(2) and request.params.max_tokens > 1:
            first = (self.drawn_token(),)
            pages = self.state.add_received(request, first)
            if pages is None:
                return
            sequence = self.state.sequences[request.id]
            self.welcome(request, sequence.arrival, first)
            self.device.receive(sequence.arrival, pages, sequence.num_computed)
        else:
            self.welcome(request, self.state.add(request).arrival, ())

    def drawn_request(self) -> Request | None:
        """Returns a request whose prompt often begins as others do, None if the drawn one could never run."""
        choices, limits = self.choices, self.limits
        length, style = choices.between(1, 10), choices.below(8)
        prompt = [1 + (i * (1 + style % 2)) % 5 for i in range(length)]
        if style >= 4:
            prompt[choices.below(length)] = 6
        features = choices.below(8)
        params = SamplingParams(
            max_tokens=choices.between(1, 14),
            constraint=Constraint("regex", "a*") if features == 1 else None,
            prompt_logprobs=0 if features == 2 else None,
        )
        num_keys = length + (0 if limits.prefill_only else params.max_tokens - 1)
        if limits.pages_for(num_keys) >= limits.num_pages:
            return None
        # Ids come back, also while results of one that was aborted are in flight.
        request_id = f"r{choices.below(6)}"
        if request_id in self.state.sequences or request_id in self.pinned:
            return None
        priority = choices.below(3) if features >= 4 else 0
        salt = SALTS[features == 3]
        return Request(request_id, tuple(prompt), params, priority=priority, cache_salt=salt)

    def step(self) -> None:
        """Plans a step and lets the device compute it; the host does not know the results yet."""
        plan = self.planned()
        self.check_plan(plan)
        self.state.apply(plan)
        self.check()
        self.num_swaps += len(plan.swap_in)
        tables = self.state.block_tables.copy()
        self.in_flight.append(self.device.compute(plan, tables, self.drawn_tokens))

    def planned(self) -> StepPlan:
        before = fingerprint(self.state)
        plan = plan_step(self.state)
        assert plan_step(self.state) == plan, "another plan for the same state"
        assert fingerprint(self.state) == before, "planning has changed the state"
        return plan

    def record(self) -> None:
        """Lets the host know what the oldest step has drawn."""
        if not self.in_flight:
            return
        for row, tokens in self.in_flight.popleft():
            sequence = self.state.record(row, tokens)
            self.check()
            if sequence is None:
                continue
            assert sequence.arrival == row.arrival
            if END_TOKEN in tokens:
                self.end(sequence.id, "stop")
            elif sequence.has_all_tokens:
                self.end(sequence.id, "length")
            elif self.limits.prefill_only:
                self.hand_over(sequence.id)

    def hand_over(self, request_id: str) -> None:
        sequence = self.state.sequences[request_id]
        if sequence.status is not Status.RUNNING:
            # Pre-empted after its last row: a decoder would be sent the tokens alone.
            self.end(request_id, "error")
            return
        pages = self.state.hand_over(request_id)
        assert sequence.num_computed == sequence.prompt_length
        self.endings[sequence.arrival].reasons.append("handed over")
        self.pinned[request_id] = (sequence.arrival, pages, sequence.num_computed)
        self.check()

    def release(self) -> None:
        """Lets go of pages that were handed over, having read them."""
        if self.pinned:
            request_id = sorted(self.pinned)[self.choices.below(len(self.pinned))]
            arrival, pages, num_tokens = self.pinned.pop(request_id)
            self.device.check_pages(arrival, list(pages), num_tokens)
            self.state.release(request_id)
            self.check()

    def abort(self) -> None:
        """A client goes away, or one sequence has a fault."""
        ids = sorted(self.state.sequences)
        if ids:
            choice = self.choices.below(2 * len(ids))
            self.end(ids[choice // 2], ("abort", "error")[choice % 2])
        assert self.state.abort("nobody") is None

    def fall_ill(self) -> None:
        """Now and then, does what ends all or touches all."""
        {0: self.fail, 1: self.change_weights}.get(self.choices.below(8), self.abort)()

    def fail(self) -> None:
        """A step fails: what it has written is worthless, and so is what came after it."""
        for request_id in sorted(self.state.sequences):
            self.end(request_id, "error")
        self.in_flight.clear()
        self.state.forget_prefixes()
        self.device.weights += 1
        self.check()

    def change_weights(self) -> None:
        """What runs goes on with new weights; nothing that was computed with old ones is shared."""
        self.state.forget_prefixes()
        self.device.weights += 1
        self.check()

    # What is checked.

    def welcome(self, request: Request, arrival: int, output_ids: tuple[int, ...]) -> None:
        self.endings[arrival] = Ending(request)
        self.device.histories[arrival] = History(request, output_ids)
        self.check()

    def end(self, request_id: str, reason: FinishReason) -> None:
        sequence = self.state.finish(request_id, reason)
        assert sequence.status is Status.FINISHED and sequence.finish_reason == reason
        ending = self.endings[sequence.arrival]
        ending.reasons.append(reason)
        ending.num_outputs = len(sequence.output_ids)
        history = self.device.histories[sequence.arrival].tokens[sequence.prompt_length :]
        assert sequence.output_ids == history[: ending.num_outputs], "a result was lost"
        self.device.host.pop(sequence.arrival, None)
        self.check()

    def check(self) -> None:
        self.state.check_invariants()

    def check_plan(self, plan: StepPlan) -> None:
        """Asserts that a plan, not applied yet, keeps to the limits and writes only into pages that are a sequence's own."""
        limits, pages = self.limits, self.state.pages
        num_chunk_tokens = sum(limits.tiled(chunk.end - chunk.start) for chunk in plan.prefill)
        taken = len(plan.decode) * limits.tokens_per_decode + num_chunk_tokens
        assert taken <= limits.max_tokens_per_step and len(plan.prefill) <= limits.max_prefill_rows
        slots = [row.slot for row in plan.rows]
        assert len({*slots}) == len(slots) and not {*plan.preempted} & {
            r.request_id for r in plan.rows
        }
        for chunk in plan.prefill:
            self.check_chunk(chunk)
        for row in plan.rows:
            sequence = self.state.sequences[row.request_id]
            start = row.start if isinstance(row, PrefillChunk) else row.position
            if sequence.status is Status.RUNNING and start // limits.page_size < len(
                sequence.pages
            ):
                page = sequence.pages[start // limits.page_size]
                assert pages.count(page) == 1 and not pages.is_registered(page), row

    def check_chunk(self, chunk: PrefillChunk) -> None:
        limits, length = self.limits, chunk.end - chunk.start
        assert 1 <= length <= limits.prefill_chunk
        if limits.chunk_alignment is not None:
            assert chunk.start % limits.chunk_alignment == 0
            assert length == limits.prefill_chunk or chunk.is_last
        if chunk.num_cached:
            assert chunk.start == chunk.num_cached
            assert self.endings[chunk.arrival].request.params.prompt_logprobs is None

    # How it goes on.

    def drawn_token(self) -> int:
        return self.choices.between(1, 5) if self.choices.below(12) != 1 else END_TOKEN

    def drawn_tokens(self, most: int) -> tuple[int, ...]:
        return tuple(self.drawn_token() for _ in range(self.choices.between(1, most)))

    def turn(self) -> None:
        """Does one thing, mostly a step."""
        action = self.choices.below(32)
        rare = {0: self.abort, 1: self.release, 2: self.fall_ill}
        if action in rare:
            rare[action]()
        elif action < 14:
            self.add()
        elif action < 22 and self.in_flight:
            self.record()
        else:
            # The host is at most two steps ahead.
            if len(self.in_flight) == 2:
                self.record()
            self.step()

    def drain(self) -> None:
        """Goes on until all have ended, which must be soon."""
        owed = sum(s.prompt_length + s.max_outputs for s in self.state.sequences.values())
        # Each may be pre-empted for each that ranks before it, and nothing else holds anybody up.
        for _ in range(20 + 4 * owed * (1 + len(self.state.sequences))):
            if not self.state.sequences:
                break
            self.step()
            stuck = not self.in_flight[-1] and len(self.in_flight) == 1 and not self.moved()
            assert not stuck or self.pinned, "nothing moves and nothing is in flight"
            if stuck or self.choices.below(2) == 0 or len(self.in_flight) == 2:
                self.record()
            self.release()
        assert not self.state.sequences, "starved"

    def moved(self) -> bool:
        """Whether anything was computed since this was last asked."""
        computed = {s.arrival: s.num_computed for s in self.state.sequences.values()}
        moved, self._computed = computed != getattr(self, "_computed", None), computed
        return moved

    def check_end(self) -> None:
        """Asserts that each ended once and that nothing is held."""
        while self.in_flight:
            self.record()
        while self.pinned:
            self.release()
        self.check()
        for ending in self.endings.values():
            assert len(ending.reasons) == 1, ending
            most = ending.request.params.max_tokens
            assert ending.num_outputs <= most + self.limits.num_draft_tokens
            assert ending.reasons != ["length"] or ending.num_outputs == most, ending
        pages = self.state.pages
        assert pages.num_available == self.limits.num_pages - 1, "a page leaked"
        assert len(self.state.free_slots) == self.limits.max_sequences, "a slot leaked"
        assert self.state.num_swapped_pages == 0 and not self.device.host, "host memory leaked"
        assert self.state.queued().requests == self.state.queued().tokens == 0


def fingerprint(state: SchedulerState) -> tuple[object, ...]:
    """Returns all that planning might change."""
    pages = state.pages
    of_pages = (*pages._free, *pages._idle, *pages._counts, len(pages._key_of))
    of_sequences = tuple(
        (s.status, s.slot, *s.pages, s.num_computed, s.num_planned_outputs, s.num_registered)
        for s in state.sequences.values()
    )
    queues = tuple(s.arrival for s in (*state.waiting, *state.running))
    return state.version, *state.free_slots, queues, of_pages, of_sequences


def run_history(data: bytes, *, kind: str) -> Simulation:
    """Lets happen what the bytes say, then lets all end."""
    simulation = Simulation(Choices(data), kind)
    while simulation.choices.are_left:
        simulation.turn()
    simulation.drain()
    simulation.check_end()
    return simulation
