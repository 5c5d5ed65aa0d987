"""`plan_step`: decides what the device computes next.

    plan = plan_step(state)     # a pure function: the state is as it was

Candidates, those that run and those that wait, are taken in the order of their rank. Each running sequence decodes in every
step; tokens that the budget has left go to prompts. Pages and slots are taken from who ranks last if there are no others: by
running sequences from all that rank below them, by waiting ones only from those of a lower priority. So the best-ranked
sequence always gets on, and as each fits into the pages alone, all end.
"""

from __future__ import annotations

from trellax.inference.scheduling.plans import DecodeRow, PrefillChunk, StepPlan, Swap
from trellax.inference.scheduling.sequence import Sequence, Status
from trellax.inference.scheduling.state import SchedulerState, aligned_pages, num_matchable


def plan_step(state: SchedulerState) -> StepPlan:
    """Returns what to compute next. Nothing changes until `state.apply`; the same state gives the same plan."""
    planner = _Planner(state)
    planner.visit_all()
    return planner.plan()


class _Planner:
    """A plan in the making: sequences from `next` to `end` run and are not visited yet, those from `end` on are pre-empted."""

    def __init__(self, state: SchedulerState):
        self.state, self.limits = state, state.limits
        self.pages = state.pages.draft()
        self.running, self.next, self.end = state.running, 0, len(state.running)
        self.free_slots = sorted(state.free_slots, reverse=True)
        self.decode: list[DecodeRow] = []
        self.prefill: list[PrefillChunk] = []
        self.swap_out: list[Swap] = []
        self.swap_in: list[Swap] = []
        self.is_open = True
        self.num_admitted = 0
        self.keys_in_the_making: set[bytes] = set()
        num_decodes = sum(map(self.decodes, self.running))
        self.budget = self.limits.max_tokens_per_step - num_decodes * self.limits.tokens_per_decode
        # Pages that running prompts will still need: not for newcomers.
        self.promised = sum(self.num_promised(s) for s in self.running if not s.is_decoding)

    def visit_all(self) -> None:
        """Visits candidates by rank."""
        waiting = iter(self.state.waiting)
        newcomer = next(waiting, None)
        while self.next < self.end or (self.is_open and newcomer):
            if self.next < self.end:
                candidate = self.running[self.next]
                if not (self.is_open and newcomer and newcomer.rank < candidate.rank):
                    self.next += 1
                    self.go_on(candidate)
                    continue
            assert newcomer is not None
            self.consider(newcomer)
            newcomer = next(waiting, None)

    def plan(self) -> StepPlan:
        """Returns the plan as it is."""
        return StepPlan(
            decode=tuple(self.decode),
            prefill=tuple(self.prefill),
            preempted=tuple(sequence.id for sequence in self.running[self.end :]),
            swap_out=tuple(self.swap_out),
            swap_in=tuple(self.swap_in),
            page_change=self.pages.change(),
            version=self.state.version,
        )

    # Running sequences.

    def decodes(self, sequence: Sequence) -> bool:
        """Whether a running sequence's next row is a decoding one, and may be planned now."""
        if not sequence.is_decoding or sequence.is_fully_planned:
            return False
        # A draft, and what a grammar allows, follow from tokens that the host has seen.
        is_seen = self.limits.num_draft_tokens or sequence.request.params.constraint
        return not (is_seen and sequence.has_results_in_flight)

    def num_promised(self, sequence: Sequence) -> int:
        """Pages that a running sequence needs for its prompt and does not have."""
        if sequence.is_decoding:
            return 0
        return max(self.limits.pages_for(sequence.num_planned) - len(sequence.pages), 0)

    def go_on(self, sequence: Sequence) -> None:
        """Plans the next row of a running sequence."""
        assert sequence.slot is not None
        if self.decodes(sequence):
            self.add_decode(sequence, sequence.slot, len(sequence.pages))
        elif not sequence.is_decoding:
            self.promised -= self.num_promised(sequence)
            start = sequence.num_computed
            self.add_chunk(sequence, sequence.slot, len(sequence.pages), start=start)

    def take_pages(self, num_pages: int) -> list[int] | None:
        """Takes pages for a sequence that runs, from those that rank below it if need be; None if that is not enough."""
        if num_pages <= 0:
            return []
        shortage = num_pages - self.pages.num_available
        if shortage > 0:
            victims = self.victims(self.running[self.next : self.end], shortage)
            if victims is None:
                self.is_open = False  # What becomes free is for this one, not for newcomers.
                return None
            self.preempt(victims)
        return self.pages.allocate(num_pages)

    # Waiting sequences.

    def consider(self, sequence: Sequence) -> None:
        """Starts a waiting sequence if there is room for it; if there is none, nobody after it is started either."""
        if sequence.is_fully_planned:
            return
        was_preempted = self.end < len(self.running) and self.running[self.end].rank < sequence.rank
        if sequence.has_results_in_flight or was_preempted:
            self.is_open = False
            return
        cached = self.cached_pages(sequence)
        if self.is_in_the_making(sequence, len(cached)):
            return
        self.is_open = self.admit(sequence, cached)

    def cached_pages(self, sequence: Sequence) -> list[int]:
        """Returns pages that hold what a sequence begins with."""
        if sequence.status is Status.SWAPPED:
            return []
        num_pages = num_matchable(sequence.request, sequence.num_known, self.limits)
        found = self.pages.find(sequence.keys[:num_pages])
        return found[: aligned_pages(len(found), self.limits)]

    def is_in_the_making(self, sequence: Sequence, num_cached: int) -> bool:
        """Whether this very step computes the page that a sequence needs first: in the next step it will have it for nothing."""
        if sequence.status is Status.SWAPPED:
            return False
        usable = num_matchable(sequence.request, sequence.num_known, self.limits)
        if num_cached >= aligned_pages(usable, self.limits):
            return False
        return not self.keys_in_the_making.isdisjoint(sequence.keys[num_cached : num_cached + 1])

    def admit(self, sequence: Sequence, cached: list[int]) -> bool:
        """Plans the first row of a waiting sequence, if there is room for all its tokens. Returns whether it did."""
        num_back = sequence.num_swapped
        start = sequence.num_computed if num_back else len(cached) * self.limits.page_size
        decodes = sequence.num_planned_outputs > 0 and sequence.num_planned - start == 1
        end = sequence.num_planned + (self.num_checked(sequence) - 1 if decodes else 0)
        num_pages = max(self.limits.pages_for(end), num_back) - len(cached)
        victims = self.room(sequence, num_pages, cached)
        if victims is None or not self.has_budget(sequence.num_planned - start, decodes, victims):
            return False
        self.preempt(victims)
        self.pages.acquire(cached)
        back = self.pages.allocate(num_back)
        if num_back:
            self.swap_in.append(Swap(sequence.id, sequence.arrival, tuple(back)))
        slot, num_held = self.free_slots.pop(), len(cached) + num_back
        self.num_admitted += 1
        if decodes:
            self.budget -= self.limits.tokens_per_decode
            self.add_decode(sequence, slot, num_held, cached=tuple(cached))
        else:
            self.add_chunk(sequence, slot, num_held, start=start, cached=tuple(cached))
        return True

    def room(self, sequence: Sequence, num_pages: int, cached: list[int]) -> list[Sequence] | None:
        """Returns who has to give way for a slot and so many pages beside the cached ones, None if that would not do."""
        num_idle = sum(self.pages.count(page) == 0 for page in cached)
        # Each that runs will soon need another page, and would take it from the newcomer.
        num_spoken_for = self.promised + self.end + self.num_admitted
        shortage = num_pages + num_idle + num_spoken_for - self.pages.num_available
        if shortage <= 0 and self.free_slots:
            return []
        lower = [s for s in self.running[self.next : self.end] if s.rank[0] > sequence.rank[0]]
        return self.victims(lower, shortage, newcomer=True, kept=frozenset(cached))

    def has_budget(self, num_tokens: int, decodes: bool, victims: list[Sequence]) -> bool:
        """Whether a newcomer's first row fits into what is left, with what its victims would have taken."""
        budget = self.budget + sum(map(self.decodes, victims)) * self.limits.tokens_per_decode
        if decodes:
            return self.limits.tokens_per_decode <= budget
        return self.chunk_length(num_tokens, budget) > 0

    # Rows.

    def num_checked(self, sequence: Sequence) -> int:
        """Tokens of a decoding row: no more than may still be drawn."""
        left = sequence.max_outputs - sequence.num_planned_outputs
        return min(self.limits.tokens_per_decode, left)

    def add_decode(
        self, sequence: Sequence, slot: int, num_held: int, *, cached: tuple[int, ...] = ()
    ) -> None:
        """Plans a decoding row.

        Args:
            sequence: whose.
            slot: the sequence's.
            num_held: pages that it holds.
            cached: those of them that its block table does not have yet.
        """
        position, num_tokens = sequence.num_planned - 1, self.num_checked(sequence)
        pages = self.take_pages(self.limits.pages_for(position + num_tokens) - num_held)
        if pages is None:
            return
        known = not sequence.has_results_in_flight
        row = DecodeRow(
            sequence.id,
            sequence.arrival,
            slot,
            position,
            num_tokens,
            new_pages=(*cached, *pages),
            input_ids=sequence.token_ids(position, position + 1) if known else (),
        )
        self.decode.append(row)

    def add_chunk(
        self,
        sequence: Sequence,
        slot: int,
        num_held: int,
        *,
        start: int,
        cached: tuple[int, ...] = (),
    ) -> None:
        """Plans a chunk of a prompt, if there is room for any of it; arguments as for a decoding row."""
        length = self.chunk_length(sequence.num_planned - start, self.budget)
        end, size = start + length, self.limits.page_size
        pages = self.take_pages(self.limits.pages_for(end) - num_held) if length else None
        num_held += len(pages or ())
        self.promised += max(self.limits.pages_for(sequence.num_planned) - num_held, 0)
        if pages is None:
            return
        self.budget -= self.limits.tiled(length)
        if sequence.is_shareable:
            self.keys_in_the_making.update(sequence.keys[start // size : end // size])
        chunk = PrefillChunk(
            request_id=sequence.id,
            arrival=sequence.arrival,
            slot=slot,
            start=start,
            end=end,
            is_last=end == sequence.num_known,
            token_ids=sequence.token_ids(start, end),
            new_pages=(*cached, *pages),
            num_cached=len(cached) * size,
        )
        self.prefill.append(chunk)

    def chunk_length(self, num_tokens: int, budget: int) -> int:
        """Returns how many of a prompt's tokens to compute now, 0 if there is no room for any."""
        if len(self.prefill) == self.limits.max_prefill_rows:
            return 0
        length = min(num_tokens, self.limits.prefill_chunk)
        room = budget - budget % self.limits.tile_length
        if self.limits.chunk_alignment is None:
            return min(length, room)
        return length if length <= room else 0

    # Pre-emption.

    def victims(
        self,
        candidates: list[Sequence],
        shortage: int,
        *,
        newcomer: bool = False,
        kept: frozenset[int] = frozenset(),
    ) -> list[Sequence] | None:
        """Returns the fewest candidates, from the last, without which there are enough pages; None if all are not enough.

        Args:
            candidates: by rank.
            shortage: pages that lack.
            newcomer: whether it is for one that waits: it needs a slot, and what was left for the victims counts too.
            kept: pages that stay held whoever lets go of them.
        """
        chosen: list[Sequence] = []
        holds: dict[int, int] = {}
        for sequence in reversed(candidates):
            chosen.append(sequence)
            for page in sequence.pages:
                holds[page] = holds.get(page, 0) + 1
                shortage -= holds[page] == self.pages.count(page) and page not in kept
            if newcomer:
                shortage -= 1 + self.num_promised(sequence)
            if shortage <= 0:
                return chosen
        return None

    def preempt(self, victims: list[Sequence]) -> None:
        """Takes slots and pages from the sequences that rank last."""
        for sequence in victims:
            self.end -= 1
            assert self.running[self.end] is sequence and sequence.slot is not None, sequence.id
            self.budget += self.decodes(sequence) * self.limits.tokens_per_decode
            self.promised -= self.num_promised(sequence)
            self.free_slots.append(sequence.slot)
            self.pages.release(sequence.pages)
            if self.can_swap(sequence):
                swap = Swap(sequence.id, sequence.arrival, tuple(sequence.pages))
                self.swap_out.append(swap)

    def can_swap(self, sequence: Sequence) -> bool:
        """Whether host memory has room for a victim's pages."""
        if self.limits.preemption != "swap" or sequence.is_fully_planned:
            return False
        taken = self.state.num_swapped_pages + sum(len(swap.pages) for swap in self.swap_out)
        return taken + len(sequence.pages) <= self.limits.max_swapped_pages
