"""Which tokens of which documents stand in a row: arithmetic on lengths, without reading a token.

Documents are laid one after another on a line, in an order that the caller chose, and the line is
cut into rows of S positions. A document that crosses a cut continues in the next row.

    layout = Layout([5, 2], np.array([1, 0]), sequence_length=4, pack=True)
    layout.spans(0)  # [Span(document=1, start=0, stop=2), Span(document=0, start=0, stop=2)]

S positions of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """Tokens `start` to `stop` of a document."""

    document: int
    start: int
    stop: int


class Layout:
    """An order of documents, cut into rows. Finding a row takes O(log documents).

    With `pack`, documents follow each other without a gap and only the last row of all may end in
    padding. Without, each document begins a row of its own.

    Attributes:
        num_rows: rows that hold a token; it does not depend on the order.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        order: np.ndarray,
        *,
        sequence_length: int,
        pack: bool,
    ):
        """Lays the documents out.

        Args:
            lengths: int [documents], tokens of each document; those without any take no place.
            order: int [documents], the documents as they follow each other.
            sequence_length: S, positions of a row.
            pack: whether documents share rows.
        """
        lengths = np.asarray(lengths, np.int64)
        self._order = order[lengths[order] > 0]
        self._lengths = lengths[self._order]
        self._sequence_length = sequence_length
        places = self._lengths if pack else -(-self._lengths // sequence_length) * sequence_length
        stops = np.cumsum(places)
        self._starts = stops - places
        self.num_rows = -(-int(stops[-1]) // sequence_length) if len(stops) else 0

    def spans(self, row: int) -> list[Span]:
        """Returns what stands in a row, from left to right; the rest of the row is padding."""
        begin = row * self._sequence_length
        end = begin + self._sequence_length
        first = int(np.searchsorted(self._starts, begin, side="right")) - 1
        last = int(np.searchsorted(self._starts, end, side="left"))
        found = []
        for i in range(max(first, 0), last):
            start = max(begin - int(self._starts[i]), 0)
            stop = min(end - int(self._starts[i]), int(self._lengths[i]))
            if start < stop:
                found.append(Span(int(self._order[i]), start, stop))
        return found
