"""A device that computes no model: it writes into pages what keys stand for, and checks whatever a row would read.

    device = SimulatedDevice(limits)
    results = device.compute(plan, block_tables, draw)      # [(row, tokens that it drew)]

The key of a token stands for everything before it, so a page holds, at each place, a digest of the whole history up to the token
there. A row that would read another sequence's tokens, tokens of a prefix that only looks alike, or what was overwritten finds a
different digest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trellax.inference.requests import Request
from trellax.inference.scheduling import DecodeRow, Limits, PrefillChunk, StepPlan

NOTHING = 0
GARBAGE = -1


class Key(NamedTuple):
    """What is kept of a token.

    Attributes:
        digest: of all tokens up to this.
        weights: the oldest weights that it, or anything that it stands for, was computed with.
    """

    digest: int
    weights: int


class History:
    """The tokens of a sequence as the device knows them, with a digest up to each."""

    def __init__(self, request: Request, output_ids: tuple[int, ...] = ()):
        self.tokens: list[int] = []
        self.digests: list[int] = []
        self.salt = request.cache_salt
        self.extend((*request.prompt_ids, *output_ids))

    def extend(self, tokens: tuple[int, ...]) -> None:
        for token in tokens:
            before = self.digests[-1] if self.digests else hash((len(self.salt),))
            self.tokens.append(token)
            self.digests.append(hash((before, token)))


@dataclasses.dataclass
class SimulatedDevice:
    """Pages, host copies of swapped ones, and the last token of each slot."""

    limits: Limits

    def __post_init__(self) -> None:
        shape = self.limits.num_pages, self.limits.page_size
        self.pages = [[Key(NOTHING, 0)] * shape[1] for _ in range(shape[0])]
        self.host: dict[int, list[list[Key]]] = {}
        self.last_token: dict[int, int] = {}
        self.histories: dict[int, History] = {}
        self.weights = 0

    def receive(self, arrival: int, pages: tuple[int, ...], num_tokens: int) -> None:
        """Writes keys that were computed elsewhere."""
        for position in range(num_tokens):
            self.write(arrival, list(pages), position)

    def compute(
        self, plan: StepPlan, block_tables: np.ndarray, draw: Callable[[int], tuple[int, ...]]
    ) -> list[tuple[DecodeRow | PrefillChunk, tuple[int, ...]]]:
        """Computes a step.

        Args:
            plan: what to compute.
            block_tables: the state's, as they are when the plan was applied.
            draw: given a number, that many tokens or fewer.
        """
        for swap in plan.swap_out:
            self.host[swap.arrival] = [list(self.pages[page]) for page in swap.pages]
        for swap in plan.swap_in:
            for page, content in zip(swap.pages, self.host.pop(swap.arrival), strict=True):
                self.pages[page] = content
        tables = [block_tables[row.slot].tolist() for row in plan.rows]
        starts = [self.start(row) for row in plan.rows]
        # What was there before is read before anything is written: no row counts on another of its step.
        for row, table, start in zip(plan.rows, tables, starts):
            self.check(row, table, start)
            if isinstance(row, PrefillChunk) and row.num_cached:
                self.check_weights(row, table)
        results = []
        for row, table, start in zip(plan.rows, tables, starts):
            tokens = draw(getattr(row, "num_tokens", 1)) if row.draws else ()
            self.histories[row.arrival].extend(tokens)
            self.write_row(row, table, start, num_drawn=len(tokens))
            if tokens:
                self.last_token[row.slot] = tokens[-1]
                results.append((row, tokens))
        for row, table, start in zip(plan.rows, tables, starts):
            self.check(row, table, row.end if isinstance(row, PrefillChunk) else start + 1)
        return results

    def start(self, row: DecodeRow | PrefillChunk) -> int:
        """Returns the position of a row's first token, having checked its tokens."""
        tokens = self.histories[row.arrival].tokens
        if isinstance(row, PrefillChunk):
            assert row.token_ids == tuple(tokens[row.start : row.end]), row
            assert not row.is_last or row.end == len(tokens), row
            return row.start
        token = row.input_ids[0] if row.input_ids else self.last_token[row.slot]
        assert row.position == len(tokens) - 1 and token == tokens[-1], (row, token, tokens)
        return row.position

    def write_row(
        self, row: DecodeRow | PrefillChunk, table: list[int], start: int, *, num_drawn: int
    ) -> None:
        if isinstance(row, PrefillChunk):
            for position in range(start, row.end):
                self.write(row.arrival, table, position)
            return
        # A draft's tokens that were accepted were the right ones; what follows them is nobody's.
        for offset in range(row.num_tokens):
            if offset < num_drawn:
                self.write(row.arrival, table, start + offset)
            else:
                page, place = self.place(table, start + offset)
                self.pages[page][place] = Key(GARBAGE, self.weights)

    def write(self, arrival: int, table: list[int], position: int) -> None:
        weights = self.weights
        if position:
            page, place = self.place(table, position - 1)
            weights = min(weights, self.pages[page][place].weights)
        page, place = self.place(table, position)
        assert page, "keys are written into the null page"
        self.pages[page][place] = Key(self.histories[arrival].digests[position], weights)

    def check(self, row: DecodeRow | PrefillChunk, table: list[int], end: int) -> None:
        """Asserts that positions up to `end` hold the row's own history."""
        self.check_pages(row.arrival, table, end)

    def check_pages(self, arrival: int, table: list[int], end: int) -> None:
        size = self.limits.page_size
        found = [key.digest for page in table[: -(-end // size)] for key in self.pages[page]]
        assert found[:end] == self.histories[arrival].digests[:end], (arrival, table, end)

    def check_weights(self, row: PrefillChunk, table: list[int]) -> None:
        """Asserts that what a cached prefix serves was computed with today's weights."""
        for position in range(row.num_cached):
            page, place = self.place(table, position)
            assert self.pages[page][place].weights == self.weights, row

    def place(self, table: list[int], position: int) -> tuple[int, int]:
        return table[position // self.limits.page_size], position % self.limits.page_size
