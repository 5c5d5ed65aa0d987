"""`Histogram`: counts of values by size, without locks, for one thread.

    seconds = Histogram(LATENCY_S)
    seconds.observe(0.03)

It is a `HistogramSnapshot` of itself. An observation costs a bisection.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

TOKEN_S = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15),
    *(0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
"""Bounds for the time between tokens, in seconds."""

FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
"""Bounds for the time to the first token, in seconds."""

REQUEST_S = (
    *(0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""Bounds for the time of a whole request, in seconds."""

QUEUE_S = REQUEST_S
"""Bounds for the time that a request waits, or its prompt takes, in seconds."""

TOKENS = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0),
    *(20_000.0, 50_000.0, 100_000.0, 200_000.0, 500_000.0, 1_000_000.0),
)
"""Bounds for numbers of tokens."""


class Histogram:
    """How many values there were up to each bound.

    Attributes:
        bounds: ascending.
        counts: of values above the bound before and up to this one; the last, of those above all.
        sum: of all values.
    """

    def __init__(self, bounds: Sequence[float]):
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value
