"""`Run`: how far a request is, over all its attempts.

run = Run(request); request = run.next_request(); output = run.deliver(piece)
"""

from __future__ import annotations

import dataclasses

from trellax.inference.disaggregation.errors import UnreachableError
from trellax.inference.requests import Output, Request


@dataclasses.dataclass
class Run:
    """
    Attributes:
        request: as the client has sent it, with a seed.
        delivered_ids: tokens that the client has.
        num_attempts: that have ended without a result.
        num_failures: those of them that count: the request may be what makes workers fail.
        failed_prefill: names of workers that have failed this request.
        failed_decode: names of workers that have failed this request.
        is_unreached: whether no worker has begun with it.
    """

    request: Request
    delivered_ids: list[int] = dataclasses.field(default_factory=list)
    num_attempts: int = 0
    num_failures: int = 0
    failed_prefill: set[str] = dataclasses.field(default_factory=set)
    failed_decode: set[str] = dataclasses.field(default_factory=set)
    is_unreached: bool = True

    def next_request(self) -> Request:
        """Returns the request for the next attempt. Each has an id of its own: the last may not have ended everywhere."""
        if self.num_attempts == 0:
            return self.request
        return dataclasses.replace(self.request, id=f"{self.request.id}~{self.num_attempts}")

    def fail(self, error: Exception, *, prefill: str | None, decode: str | None) -> None:
        """Notes that workers have failed it. To have met one that does not answer counts from the second time on."""
        is_met = prefill in self.failed_prefill or decode in self.failed_decode
        is_unreachable = isinstance(error, UnreachableError)
        self.is_unreached &= is_unreachable
        if is_met or not is_unreachable:
            self.num_failures += 1
        if prefill is not None:
            self.failed_prefill.add(prefill)
        if decode is not None:
            self.failed_decode.add(decode)

    def deliver(self, piece: Output) -> Output:
        """Notes that the client gets a piece of the current attempt; returns it as the client is to see it."""
        if self.delivered_ids:  # What comes with the first piece has come.
            piece = dataclasses.replace(piece, prompt_logprobs=None, num_cached_tokens=0)
        self.delivered_ids += piece.token_ids
        return dataclasses.replace(piece, request_id=self.request.id)
