"""`Matcher`: which tokens may come next in one sequence.

    matcher.fill_mask(out)  # Bit i of the mask is token i.
    matcher.accept(token_id)

Shapes: W = ceil(V / 32) words of the mask of a vocabulary of V, R sequences. Word i // 32, bit i % 32 is token i.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt32

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher

Mask = UInt32[np.ndarray, "W"]
Masks = UInt32[np.ndarray, "R W"]

_ALL = np.uint32(0xFFFF_FFFF)

# Lines of an error that show the grammar: "  1 | start: /[/" and the "^" below.
_EXCERPT = re.compile(r"\d+ \| |\^$")


class Matcher:
    """Where a text is in its grammar. Made by `ConstraintCompiler`; for one sequence, one thread at a time.

    A grammar may turn out too complex for the limits in the middle of a text. Then `error` says so, and
    nothing but an end token is allowed.
    """

    def __init__(self, library: LLMatcher, *, end_ids: frozenset[int]):
        self._library = library
        self._end_ids = end_ids
        self._has_ended = False

    @property
    def error(self) -> str | None:
        """Why the grammar cannot go on, None if it can; safe to show to the client."""
        return reason(self._library.get_error()) if self._library.is_error() else None

    def fill_mask(self, out: Mask) -> None:
        """Writes which tokens may be next. End tokens are among them exactly when the text may end here."""
        assert out.dtype == np.uint32 and out.flags.c_contiguous
        self._library.unsafe_compute_mask_ptr(out.ctypes.data, out.nbytes)

    def accept(self, token_id: int) -> bool:
        """Takes the next token; returns False, and stays where it is, if it is not allowed."""
        if self._has_ended or self._library.is_error():
            return False
        if token_id in self._end_ids:
            self._has_ended = self._library.is_accepting()
            return self._has_ended
        return self._library.try_consume_tokens([token_id]) == 1

    def is_done(self) -> bool:
        """Returns whether nothing but an end token may follow, or one has come. False before the first token."""
        return self._has_ended or self._library.is_stopped()

    def rollback(self, num_tokens: int) -> None:
        """Takes back the last tokens that were accepted, as a draft that was wrong."""
        if num_tokens > 0 and self._has_ended:
            self._has_ended = False
            num_tokens -= 1
        if num_tokens > 0 and not self._library.rollback(num_tokens):
            raise AssertionError(f"{num_tokens} tokens were never accepted: {self.error}")

    def clone(self) -> Matcher:
        """Returns a matcher at the same place that goes its own way."""
        clone = Matcher(self._library.deep_copy(), end_ids=self._end_ids)
        clone._has_ended = self._has_ended
        return clone


def fill_masks(executor: LLExecutor, matchers: Sequence[Matcher | None], out: Masks) -> None:
    """Fills a row for each matcher, in parallel; rows without one allow everything.

    Args:
        executor: the library's threads.
        matchers: R matchers, each at most once.
    """
    assert out.dtype == np.uint32 and out.flags.c_contiguous and len(out) == len(matchers)
    jobs = [(m._library, row) for row, m in enumerate(matchers) if m is not None]
    if len(jobs) < len(matchers):
        out[[row for row, m in enumerate(matchers) if m is None]] = _ALL
    if jobs:
        executor.unsafe_compute_mask_ptr(jobs, out.ctypes.data, out.strides[0], len(out))


def reason(library_message: str) -> str:
    """Returns what the library says in one line, without its dumps of the grammar and of the parser's state."""
    message = library_message.replace("<non-verbose/>", "").split("<state>")[0]
    if message.strip().startswith("NoExtension"):
        return "no text matches it"
    lines = (line.strip() for line in message.splitlines())
    text = " ".join(line for line in lines if line and not _EXCERPT.match(line))
    return text if len(text) <= 300 else text[:300] + "…"
