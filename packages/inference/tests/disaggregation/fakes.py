"""Engines that draw tokens from hashes of all that came before: one that does everything, and one for each role.

A token depends on the seed, the prompt and every earlier token, so whoever goes on from a wrong state is found out.
"""

import asyncio
import hashlib

import numpy as np

from trellax.inference.disaggregation import Gauges, HandOver, NoRoomError, Prefilled, WorkerError
from trellax.inference.requests import Output, TokenLogprobs

VOCAB_SIZE = 1000
END_ID = 7


def draw(request, drawn_ids):
    """The next token."""
    state = repr((request.params.seed, request.prompt_ids, tuple(drawn_ids))).encode()
    return int.from_bytes(hashlib.sha256(state).digest()[:4], "big") % VOCAB_SIZE


def piece_of(request, drawn_ids, num_new=1):
    """The piece that has the last tokens."""
    reason = "length" if len(drawn_ids) == request.params.max_tokens else None
    if drawn_ids[-1] in request.params.stop_token_ids:
        reason = "stop"
    new = tuple(drawn_ids[-num_new:])
    logprobs = (
        tuple(TokenLogprobs(i, -0.5 * i, 1) for i in new)
        if request.params.logprobs is not None
        else None
    )
    return Output(
        request.id,
        token_ids=new,
        text="".join(f"<{i}>" for i in new),
        logprobs=logprobs,
        finish_reason=reason,
        stop_reason=new[-1] if reason == "stop" else None,
    )


def fused(request):
    """All pieces that one engine yields."""
    drawn, pieces = [], []
    while not pieces or pieces[-1].finish_reason is None:
        drawn.append(draw(request, drawn))
        pieces.append(piece_of(request, drawn))
    return pieces


def pages_of(request, drawn_ids):
    """What an engine would have cached of the prompt and of all drawn tokens but the last."""
    return {"keys": np.asarray([*request.prompt_ids, *drawn_ids[:-1]], np.int32)[:, None]}


class FakePrefillEngine:
    """Attributes: `running` ids, `unreleased` ids, `most_unreleased`, `prefilled` requests, `is_dead`."""

    def __init__(self, *, seconds=0.0):
        self.seconds = seconds
        self.running, self.unreleased, self.prefilled = set(), set(), []
        self.most_unreleased = 0
        self.is_dead = False

    async def prefill(self, request, *, earlier_ids):
        self._check()
        assert request.id not in self.running, "the id is in use"
        self.running.add(request.id)
        try:
            await asyncio.sleep(self.seconds)
            self._check()
        finally:
            self.running.discard(request.id)
        self.prefilled.append(request)
        drawn_ids = (*earlier_ids, draw(request, earlier_ids))
        output = piece_of(request, drawn_ids)
        if output.finish_reason is not None:
            return Prefilled(output, None)
        self.unreleased.add(request.id)
        self.most_unreleased = max(self.most_unreleased, len(self.unreleased))
        return Prefilled(output, HandOver(request, drawn_ids, pages_of(request, drawn_ids)))

    def handover_bytes(self, request, *, earlier_ids):
        return HandOver(request, earlier_ids, pages_of(request, [*earlier_ids, 0])).num_bytes

    def release(self, request_id):
        self.unreleased.remove(request_id)

    def gauges(self):
        return Gauges(page_usage=0.25, num_preemptions=1, num_compiles=2)

    def _check(self):
        if self.is_dead:
            raise WorkerError("killed")


class FakeDecodeEngine:
    """Attributes: `running` ids, `most_running`, `taken_up` ids, `is_dead`."""

    def __init__(self, *, seconds=0.0, max_sequences=100):
        self.seconds, self.max_sequences = seconds, max_sequences
        self.running, self.most_running, self.taken_up = set(), 0, []
        self.is_dead = False

    async def resume(self, handover):
        self._check()
        if len(self.running) >= self.max_sequences:
            raise NoRoomError
        request, drawn_ids = handover.request, list(handover.token_ids)
        assert request.id not in self.running, "the id is in use"
        np.testing.assert_array_equal(handover.arrays["keys"], pages_of(request, drawn_ids)["keys"])
        self.running.add(request.id)
        self.most_running = max(self.most_running, len(self.running))
        self.taken_up.append(request.id)
        return self._pieces(request, drawn_ids)

    async def _pieces(self, request, drawn_ids):
        try:
            reason = None
            while reason is None:
                await asyncio.sleep(self.seconds)
                self._check()
                drawn_ids.append(draw(request, drawn_ids))
                piece = piece_of(request, drawn_ids)
                reason = piece.finish_reason
                yield piece
        finally:
            self.running.discard(request.id)

    def gauges(self):
        return Gauges(page_usage=0.75, num_preemptions=1, num_compiles=2)

    def _check(self):
        if self.is_dead:
            raise WorkerError("killed")
