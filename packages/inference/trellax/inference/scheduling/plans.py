"""`StepPlan`: what the device computes in one step, as plain values.

Pages are copied first (all of `swap_out`, then all of `swap_in`), then all rows are computed. A row writes keys and values of its
tokens through its slot's block table, which is `state.block_tables[row.slot]` once the plan is applied.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from trellax.inference.scheduling.pages import PageChange


class DecodeRow(NamedTuple):
    """A sequence's next token, and with speculation the tokens that are proposed after it.

    Attributes:
        request_id: whose.
        arrival: the number of the sequence, which tells requests of the same id apart.
        slot: the sequence's.
        position: of its input token.
        num_tokens: 1, or with a draft as many as are to be checked; pages are there for them. So many results at most are used.
        new_pages: what the sequence's block table is extended by.
        input_ids: the input token; empty if only the device knows it, from the step before.
    """

    request_id: str
    arrival: int
    slot: int
    position: int
    num_tokens: int
    new_pages: tuple[int, ...]
    input_ids: tuple[int, ...]

    @property
    def draws(self) -> bool:
        """Whether a token is drawn from this row: always."""
        return True


class PrefillChunk(NamedTuple):
    """Known tokens of a sequence whose keys and values are to be computed.

    Attributes:
        request_id: whose.
        arrival: the number of the sequence, which tells requests of the same id apart.
        slot: the sequence's.
        start: position of the first token.
        end: position after the last.
        is_last: whether it is the last known token, so that the next is drawn.
        token_ids: the tokens.
        new_pages: what the sequence's block table is extended by; cached ones first, if this is the first chunk.
        num_cached: tokens before this chunk that a cached prefix serves, if this is the first chunk; else 0.
    """

    request_id: str
    arrival: int
    slot: int
    start: int
    end: int
    is_last: bool
    token_ids: tuple[int, ...]
    new_pages: tuple[int, ...]
    num_cached: int

    @property
    def draws(self) -> bool:
        """Whether a token is drawn from this row."""
        return self.is_last


class Swap(NamedTuple):
    """Pages of a sequence that are copied to host memory or back, in the order of its block table.

    Attributes:
        request_id: whose.
        arrival: the number of the sequence: what the copy is kept under.
        pages: the device's pages.
    """

    request_id: str
    arrival: int
    pages: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """What the device computes in one step.

    Attributes:
        decode: rows of sequences that generate.
        prefill: chunks of prompts.
        preempted: ids of sequences that lose their slot and pages, those of `swap_out` among them.
        swap_out: pages to keep in host memory, before anything is written.
        swap_in: pages to bring back, after that.
        page_change: what becomes of the pages.
        version: of the state that it was made from.
    """

    decode: tuple[DecodeRow, ...]
    prefill: tuple[PrefillChunk, ...]
    preempted: tuple[str, ...]
    swap_out: tuple[Swap, ...]
    swap_in: tuple[Swap, ...]
    page_change: PageChange
    version: int

    @property
    def rows(self) -> tuple[DecodeRow | PrefillChunk, ...]:
        """All rows, decoding ones first."""
        return (*self.decode, *self.prefill)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not (self.decode or self.prefill)

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed."""
        return sum(row.num_tokens for row in self.decode) + sum(
            c.end - c.start for c in self.prefill
        )
