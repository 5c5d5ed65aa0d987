"""`EngineCore`: plans steps, runs them one ahead of their results, and turns tokens into what clients get.

    core = EngineCore(runner, limits, tokenizer=tokenizer, eos_ids=tokenizer.eos_ids)
    core.add(Request("a", prompt_ids))
    while core.has_work:
        for output in core.step(): ...

A call of `step` starts the next step's pass through the model, looks at what the step before it has drawn while that computes,
and then starts its draw. So the device never waits for the host, except for drafts, which need to know what they follow.

For one thread. Shapes: R rows that are drawn from.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from trellax.inference.constraints import Matcher
from trellax.inference.engine.draws import DrawRow, Draws
from trellax.inference.engine.prompt_scores import PromptScores
from trellax.inference.engine.speculation import DraftAsk, Speculation, StepToDraft
from trellax.inference.engine.stats import CoreStats
from trellax.inference.engine.tracked import Tracked
from trellax.inference.execution import Drafts, Drawn, Pass, Runner, StepShape
from trellax.inference.requests import Output, Request
from trellax.inference.scheduling import (
    DecodeRow,
    Limits,
    PrefillChunk,
    SchedulerState,
    StepPlan,
    plan_step,
)
from trellax.inference.scheduling import Sequence as ScheduledSequence
from trellax.inference.text import Tokenizer


@dataclasses.dataclass
class _Part:
    """One pass of a step, and what was started with it."""

    plan: StepPlan
    step: Pass
    rows: list[DrawRow]
    drafts: Drafts | None = None
    scores: PromptScores | None = None
    drawn: Drawn | None = None


class HandedOver(NamedTuple):
    """A sequence that another engine is to go on with.

    Attributes:
        token_ids: of its output so far.
        arrays: its state but for the last token's, in host memory.
    """

    token_ids: tuple[int, ...]
    arrays: Any


class EngineCore:
    """Requests in, pieces of output out."""

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        *,
        tokenizer: Tokenizer | None = None,
        eos_ids: frozenset[int] = frozenset(),
        speculation: Speculation | None = None,
        seed: int | None = None,
        checks_invariants: bool = False,
    ):
        """
        Args:
            runner: computes.
            limits: what plans keep to.
            tokenizer: for text; without one outputs are tokens only, and there are no stop texts.
            eos_ids: tokens that end a request.
            speculation: proposes drafts, `limits.num_draft_tokens` at most.
            seed: of the draws of requests without one.
            checks_invariants: whether to account for all pages and slots after each step, for tests.
        """
        self.runner, self.state = runner, SchedulerState(limits)
        self._tokenizer, self._eos_ids = tokenizer, eos_ids
        self._speculation = speculation
        self._seeds = random.Random(seed)
        self._checks_invariants = checks_invariants
        self._tracked: dict[str, Tracked] = {}
        self._aborted: list[str] = []
        self._in_flight: list[_Part] = []
        self._swapped: dict[int, Any] = {}
        self.handed_over: dict[str, HandedOver] = {}
        self._draws = Draws(runner)
        self.stats = CoreStats()

    # ---- requests -------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._tracked or self._in_flight or self._aborted)

    def add(
        self, request: Request, matcher: Matcher | None = None, earlier_ids: Sequence[int] = ()
    ) -> None:
        """Queues a request.

        Args:
            request: what to generate.
            matcher: of its constraint.
            earlier_ids: tokens of its output that an engine has drawn and delivered before.

        Raises:
            RequestError: it can never run.
        """
        self.state.add(_continued(request, tuple(earlier_ids)))
        self._track(request, matcher, earlier_ids)

    def resume(
        self,
        request: Request,
        token_ids: tuple[int, ...],
        arrays: Any,
        matcher: Matcher | None = None,
    ) -> bool:
        """Takes up a sequence that another engine of the same model has handed over; False if there is no room now.

        Args:
            request: as the client sent it.
            token_ids: of its output so far, which the client has.
            arrays: of `HandedOver`.
            matcher: of its constraint, at its beginning.
        """
        pages = self.state.add_received(request, token_ids)
        if pages is None:
            return False
        slot = self.state.sequences[request.id].slot
        assert slot is not None
        try:
            self.runner.put_in(arrays, pages, slot)
        except Exception:
            self.state.abort(request.id)  # What came does not fit; nothing of it stays.
            raise
        self._track(request, matcher, token_ids)
        return True

    def _track(
        self, request: Request, matcher: Matcher | None, earlier_ids: Sequence[int] = ()
    ) -> Tracked:
        seed = request.params.seed
        drafts = None if self._speculation is None else self._speculation.start(request.prompt_ids)
        tracked = self._tracked[request.id] = Tracked(
            request,
            seed=self._seeds.getrandbits(32) if seed is None else seed,
            tokenizer=self._tokenizer,
            eos_ids=self._eos_ids,
            matcher=matcher,
            drafts=drafts,
        )
        if earlier_ids:
            tracked.take(list(earlier_ids), [])
        return tracked

    def abort(self, request_id: str) -> None:
        """Ends a request; the next step tells so. One that has ended already is left alone."""
        if request_id in self._tracked and request_id not in self._aborted:
            self._drop(self.state.abort(request_id))
            self._aborted.append(request_id)

    def fail_all(self, message: str) -> list[Output]:
        """Ends all requests after a fault, each with this error."""
        self._in_flight = []
        self.state.forget_prefixes()  # What the failed step was to write may not be there.
        for request_id in list(self.state.sequences):
            self._drop(self.state.finish(request_id, "error"))
        tracked, self._tracked, self._aborted = self._tracked, {}, []
        return [t.ended("error", message) for t in tracked.values()]

    def _drop(self, sequence: ScheduledSequence | None) -> None:
        """Drops the copy of a sequence that ends while it is swapped out."""
        if sequence is not None:
            self._swapped.pop(sequence.arrival, None)

    # ---- steps ----------------------------------------------------------------------------------

    def step(self) -> list[Output]:
        """Advances all that can be; returns what is new."""
        outputs = self._tell_aborted()
        if self._speculation is not None:
            outputs += self._finish_step()
        parts = self._start_step()
        outputs += self._finish_step()
        for part in parts:
            self._draw(part)
        self._in_flight = parts
        if self._checks_invariants:
            self.state.check_invariants()
        return outputs

    def _tell_aborted(self) -> list[Output]:
        aborted, self._aborted = self._aborted, []
        return [self._untracked(request_id).ended("abort") for request_id in aborted]

    def _untracked(self, request_id: str) -> Tracked:
        return self._tracked.pop(request_id)

    def _start_step(self) -> list[_Part]:
        """Plans a step and starts its passes: one, or one of decoding and one of prompts where they must not mix."""
        plan = plan_step(self.state)
        slots = {s.request_id: self.state.sequences[s.request_id].slot for s in plan.swap_out}
        for swap in plan.swap_out:
            slot = slots[swap.request_id]
            assert slot is not None
            self._swapped[swap.arrival] = self.runner.take_out(swap.pages, slot)
        for request_id in plan.preempted:
            self._interrupt(self._tracked[request_id])
        self.state.apply(plan)
        for swap in plan.swap_in:
            sequence = self.state.sequences[swap.request_id]
            assert sequence.slot is not None
            self.runner.put_in(self._swapped.pop(swap.arrival), swap.pages, sequence.slot)
        for chunk in plan.prefill:
            if chunk.num_cached and not self._tracked[chunk.request_id].output_ids:
                self._tracked[chunk.request_id].num_cached_tokens = chunk.num_cached
        self.stats.planned(plan, self._tracked)
        return [self._started(part) for part in self._separated(plan) if not part.is_empty]

    def _separated(self, plan: StepPlan) -> list[StepPlan]:
        if not (plan.decode and plan.prefill and self.runner.sizes.shapes.is_fixed):
            return [plan]
        only = dataclasses.replace
        return [only(plan, prefill=()), only(plan, decode=())]

    def _interrupt(self, tracked: Tracked) -> None:
        """Forgets what is known of a sequence on the device, as it has lost its place there."""
        tracked.seen_slot = None
        if self._speculation is not None:
            self._speculation.interrupt(tracked.drafts)

    def _started(self, plan: StepPlan) -> _Part:
        scored = [self._wants_scores(chunk) for chunk in plan.prefill]
        shape = self.runner.sizes.shapes.of_plan(plan, scores=any(scored))
        rows = self._draw_rows(plan, shape)
        drafts = self._proposed(plan, shape, rows)
        step = self.runner.forward(plan, shape, self.state.block_tables, drafts=drafts)
        part = _Part(plan, step, rows, drafts)
        if any(scored):
            part.scores = PromptScores.started(self.runner, plan, step, scored, self._tracked)
        return part

    def _wants_scores(self, chunk: PrefillChunk) -> bool:
        tracked = self._tracked[chunk.request_id]
        scores = tracked.prompt_logprobs
        return scores is not None and len(scores) < len(tracked.request.prompt_ids)

    def _proposed(self, plan: StepPlan, shape: StepShape, rows: Sequence[DrawRow]) -> Drafts | None:
        if self._speculation is None:
            return None
        asks = [ask for index, row in enumerate(plan.decode) if (ask := self._ask(index, row))]
        is_greedy = self._draws.needed(rows).greedy
        step = StepToDraft(shape.decode_rows, self.state.block_tables, is_greedy)
        drafts = self._speculation.propose(asks, step)
        self.stats.drafted(drafts)
        return drafts

    def _ask(self, index: int, row: DecodeRow) -> DraftAsk | None:
        """Returns what is asked about a decoding row. Those whose draws depend on each token before have no drafts."""
        tracked = self._tracked[row.request_id]
        params, output_ids = tracked.request.params, tracked.output_ids
        is_plain = tracked.matcher is None and not tracked.has_penalties
        most = min(row.num_tokens, params.max_tokens - len(output_ids)) - 1
        if not is_plain or most < 1 or tracked.biases(len(output_ids)):
            return None
        return DraftAsk(tracked.drafts, index, row.slot, output_ids, most, params, tracked.seed)

    def _draw_rows(self, plan: StepPlan, shape: StepShape) -> list[DrawRow]:
        """Returns the rows that a token is drawn from, and which of the drawn rows they are."""
        rows = []
        for index, row in enumerate(plan.decode):
            tracked = self._tracked[row.request_id]
            number = row.position + 1 - len(tracked.request.prompt_ids)
            rows.append(DrawRow(row, index, number, tracked))
        for index, chunk in enumerate(plan.prefill):
            if chunk.is_last:
                tracked = self._tracked[chunk.request_id]
                number = chunk.end - len(tracked.request.prompt_ids)
                rows.append(DrawRow(chunk, shape.decode_rows + index, number, tracked))
        return rows

    def _draw(self, part: _Part) -> None:
        part.drawn = self._draws.start(part.step, part.rows, part.drafts)

    # ---- results --------------------------------------------------------------------------------

    def _finish_step(self) -> list[Output]:
        """Waits for the tokens of the step in flight and tells what they are."""
        parts, self._in_flight = self._in_flight, []
        outputs = []
        for part in parts:
            assert part.drawn is not None
            if part.scores is not None:
                part.scores.fetch()
            results = self._draws.fetch(part.drawn, part.rows)
            for row, (token_ids, logprobs) in zip(part.rows, results, strict=True):
                output = self._taken(row, token_ids, logprobs)
                if output is not None:
                    outputs.append(output)
        return outputs

    def _taken(self, row: DrawRow, token_ids: list[int], logprobs: Any) -> Output | None:
        tracked = row.tracked
        if (
            tracked.finish_reason is not None
            or self._tracked.get(tracked.request.id) is not tracked
        ):
            return None  # It ended while this step computed.
        output = tracked.take(token_ids, logprobs)
        if output.token_ids:
            self.state.record(row.row, output.token_ids)
        self.stats.drew(tracked, len(output.token_ids))
        if output.finish_reason is not None:
            self._end(tracked.request.id, output.finish_reason)
        elif self.state.limits.prefill_only:
            self._hand_over(tracked)
        return output

    def _hand_over(self, tracked: Tracked) -> None:
        """Takes a sequence out, its state in host memory, for another engine to go on with."""
        request_id = tracked.request.id
        slot = self.state.sequences[request_id].slot
        assert slot is not None
        pages = self.state.hand_over(request_id)
        arrays = self.runner.take_out(pages, slot)
        self.state.release(request_id)
        self.handed_over[request_id] = HandedOver(tuple(tracked.output_ids), arrays)
        self._untracked(request_id)

    def _end(self, request_id: str, reason: Any) -> None:
        if request_id in self.state.sequences:
            self._drop(self.state.finish(request_id, reason))
        if request_id in self._aborted:
            self._aborted.remove(request_id)
        self._untracked(request_id)


def _continued(request: Request, earlier_ids: tuple[int, ...]) -> Request:
    """Returns what is scheduled for a request some tokens of which are known: they are computed as a prompt is."""
    if not earlier_ids:
        return request
    left = request.params.max_tokens - len(earlier_ids)
    params = dataclasses.replace(request.params, max_tokens=left, min_tokens=0)
    return dataclasses.replace(request, prompt_ids=request.prompt_ids + earlier_ids, params=params)
