"""`QueueFullError`: there is no place for a request now."""

from __future__ import annotations

from typing import Literal


class QueueFullError(Exception):
    """The engine holds as many waiting requests, or tokens of theirs, as it may.

    Attributes:
        kind: what there is too much of.
        retry_after_s: when to try again.
    """

    def __init__(self, kind: Literal["requests", "tokens"], *, retry_after_s: float):
        super().__init__(f"The queue is full: too many {kind} wait.")
        self.kind = kind
        self.retry_after_s = retry_after_s
