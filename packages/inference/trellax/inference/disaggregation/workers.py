"""`PrefillWorker` and `DecodeWorker`: an engine in one of the two roles, here or in another process.

    prefill worker                                      decode worker, at `target`
    prefill(request, target=target)
        engine.prefill → first piece, pages
        pages  ──────────── Sender / Receiver ────────→ resume(request.id): waits for the pages,
        ends once they are accepted                     then engine.resume → the pieces that follow

The two streams of pieces, one after the other, are what one engine would have yielded. `remote` has workers of other processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from typing import Protocol

from trellax.inference.disaggregation.handover import HandOver
from trellax.inference.requests import Output, Request


@dataclasses.dataclass(frozen=True)
class Prefilled:
    """What became of a prompt.

    Attributes:
        output: the first piece, one token in it.
        handover: how to go on, `token_ids` being the earlier ones and that of `output`; None where `output` ends the request.
    """

    output: Output
    handover: HandOver | None


@dataclasses.dataclass(frozen=True)
class Gauges:
    """What a worker tells about its engine.

    Attributes:
        page_usage: the share of the cache's pages in use, 0 to 1.
        num_preemptions: sequences that lost their pages to others, since the start.
        num_compiles: programs compiled, since the start.
        num_drafted_rows: how often a sequence had drafts in a step, since the start.
        num_drafts: these drafts.
        num_accepted_drafts: those that were accepted.
    """

    page_usage: float = 0.0
    num_preemptions: int = 0
    num_compiles: int = 0
    num_drafted_rows: int = 0
    num_drafts: int = 0
    num_accepted_drafts: int = 0


class PrefillEngine(Protocol):
    """What a prefill worker needs of an engine."""

    async def prefill(self, request: Request, *, earlier_ids: tuple[int, ...]) -> Prefilled:
        """Computes the prompt and `earlier_ids`, and draws the next token.

        `earlier_ids` were drawn by an engine that has died, and delivered: the token, its text and its log-probability are
        what that engine would have come to, and the piece has none of what came before. Cancelling the call aborts it.
        """
        ...

    def handover_bytes(self, request: Request, *, earlier_ids: tuple[int, ...]) -> int:
        """Returns what the hand-over of a request takes in host memory, at most."""
        ...

    def release(self, request_id: str) -> None:
        """Frees the pages of a sequence whose hand-over is over, well or badly."""
        ...

    def gauges(self) -> Gauges: ...


class DecodeEngine(Protocol):
    """What a decode worker needs of an engine."""

    async def resume(self, handover: HandOver) -> AsyncGenerator[Output, None]:
        """Takes a sequence up; returns, once the arrays are copied, what yields the pieces that follow its tokens.

        Closing the generator aborts the sequence, and so does cancelling the call.

        Raises:
            NoRoomError: if there is no room now.
        """
        ...

    def gauges(self) -> Gauges: ...


class PrefillWorker(Protocol):
    """Computes prompts."""

    @property
    def name(self) -> str:
        """Unique among the workers of its role."""
        ...

    @property
    def max_running(self) -> int:
        """Requests at once."""
        ...

    def prefill(
        self, request: Request, *, earlier_ids: tuple[int, ...], target: str
    ) -> AsyncGenerator[Output, None]:
        """Yields the first piece, hands the pages over to the decode worker at `target`, and ends once they are accepted.

        Raises:
            RequestError: if the request can never run.
            TransportError: if the target cannot be reached, or refuses.
            WorkerError: if the worker fails.
        """
        ...

    def gauges(self) -> Gauges: ...

    async def close(self) -> None: ...


class DecodeWorker(Protocol):
    """Goes on with what was prefilled."""

    @property
    def name(self) -> str:
        """Unique among the workers of its role."""
        ...

    @property
    def max_running(self) -> int:
        """Requests at once, those included whose pages are on the way."""
        ...

    async def target(self) -> str:
        """Returns where prefill workers are to hand pages over to.

        Raises:
            WorkerError: if the worker cannot be reached.
        """
        ...

    def resume(self, request_id: str) -> AsyncGenerator[Output, None]:
        """Waits for the hand-over of a request and yields the pieces that follow it. Closing aborts.

        Raises:
            WorkerError: if the worker fails.
        """
        ...

    def gauges(self) -> Gauges: ...

    async def close(self) -> None: ...
