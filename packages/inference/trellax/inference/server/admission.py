"""`Admission`: how much may run or wait at once, in all and for each API key.

    with admission.admit(key, requests):
        ...  # They run.

Of what is over a key's own limit its client hears 429, of what is over the server's 503; both say when to
try again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

from trellax.inference.requests import Request, RequestError
from trellax.inference.server.errors import ApiError, overloaded, retry_after
from trellax.inference.server.metrics import Metrics
from trellax.inference.server.settings import ServerSettings


@dataclasses.dataclass
class _Load:
    requests: int = 0
    tokens: int = 0

    def add(self, requests: int, tokens: int) -> None:
        self.requests += requests
        self.tokens += tokens


class Admission:
    """Counts what runs and waits, and refuses what is too much."""

    def __init__(self, settings: ServerSettings, metrics: Metrics):
        self._settings = settings
        self._metrics = metrics
        self._all = _Load()
        self._of_key: dict[str, _Load] = {}

    @property
    def num_active(self) -> int:
        """Sequences that run or wait."""
        return self._all.requests

    @contextlib.contextmanager
    def admit(self, key: str, requests: Sequence[Request]) -> Iterator[None]:
        """Holds room for requests while entered.

        Raises:
            ApiError: 429 or 503, if there is none now.
            RequestError: if there never is.
        """
        num_requests, num_tokens = len(requests), sum(len(r.prompt_ids) for r in requests)
        of_key = self._of_key.setdefault(key, _Load())
        self._check(of_key, num_requests, num_tokens)
        for load in (self._all, of_key):
            load.add(num_requests, num_tokens)
        try:
            yield
        finally:
            for load in (self._all, of_key):
                load.add(-num_requests, -num_tokens)
            if not of_key.requests:
                self._of_key.pop(key, None)

    def _check(self, of_key: _Load, num_requests: int, num_tokens: int) -> None:
        limits = self._settings.limits
        for noun, added in (("requests", num_requests), ("tokens", num_tokens)):
            key_limit, limit = getattr(limits, f"key_{noun}"), getattr(limits, f"active_{noun}")
            if added > min(key_limit, limit):
                raise RequestError(
                    f"The request is for {added} {noun} at once; at most {min(key_limit, limit)}."
                )
            if getattr(of_key, noun) + added > key_limit:
                self._metrics.rejections[f"key_{noun}"] += 1
                raise _too_much_of_one(noun, key_limit, self._settings.retry_after_s)
            if getattr(self._all, noun) + added > limit:
                self._metrics.rejections[noun] += 1
                raise overloaded(
                    f"The server is full: at most {limit} {noun} may run and wait.",
                    retry_after_s=self._settings.retry_after_s,
                    code="queue_full",
                )


def _too_much_of_one(noun: str, limit: int, retry_after_s: float) -> ApiError:
    return ApiError(
        429,
        f"This client has too much running: at most {limit} {noun} of one may run and wait.",
        code="rate_limit_exceeded",
        headers=retry_after(retry_after_s),
    )
