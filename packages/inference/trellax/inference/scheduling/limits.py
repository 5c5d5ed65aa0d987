"""`Limits`: what one step, one sequence and the queue may take.

limits = Limits(num_pages=513, page_size=16, max_sequences=8, max_length=1024, max_tokens_per_step=256,
                prefill_chunk=128, max_prefill_rows=4)
limits.check(request)   # raises RequestError if it could never run
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from trellax.inference.requests import Request, RequestError


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the scheduler keeps to.

    Attributes:
        num_pages: pages of the pool, the null page included.
        page_size: tokens of a page.
        max_sequences: sequences that hold a slot at once.
        max_length: tokens of a prompt and its output together.
        max_tokens_per_step: tokens that a step computes. All running sequences must be able to decode in one.
        prefill_chunk: tokens of a prompt that one row of a step computes at most.
        max_prefill_rows: prompts that a step works on.
        tile_length: prompts are computed in pieces of so many tokens; what a chunk leaves empty of its last one counts, too.
        chunk_alignment: for steps that compute a prompt the same way whatever else runs: chunks begin at multiples of
            this, and all but a prompt's last are of exactly `prefill_chunk` tokens. None lets chunks shrink to what is
            left of the budget.
        num_draft_tokens: tokens that are proposed after a decoding row's input (speculation), 0 for none.
        preemption: what becomes of keys and values when pages run out: computed again, or kept in host memory.
        max_swapped_pages: pages that host memory holds; once they are used up, keys and values are computed again.
        share_prefixes: whether full pages are found again by the tokens in them.
        prefill_only: sequences draw one token, and decode elsewhere (`SchedulerState.hand_over`).
        max_queued_requests: requests that wait before others are turned away; None for no bound.
        max_queued_tokens: the same, in tokens of their prompts.
        patience: how many tokens of others a prompt may have to wait for, for each of its own: a request is due so many computed
            tokens after it came. Short prompts then pass long ones, and none waits for ever. 0 for the order of arrival.
    """

    num_pages: int
    page_size: int
    max_sequences: int
    max_length: int
    max_tokens_per_step: int
    prefill_chunk: int
    max_prefill_rows: int
    tile_length: int = 1
    chunk_alignment: int | None = None
    num_draft_tokens: int = 0
    preemption: Literal["recompute", "swap"] = "recompute"
    max_swapped_pages: int = 0
    share_prefixes: bool = True
    prefill_only: bool = False
    max_queued_requests: int | None = None
    max_queued_tokens: int | None = None
    patience: int = 0

    def __post_init__(self) -> None:
        _at_least(2, num_pages=self.num_pages, max_length=self.max_length)
        _at_least(1, page_size=self.page_size, max_sequences=self.max_sequences)
        _at_least(1, prefill_chunk=self.prefill_chunk, max_prefill_rows=self.max_prefill_rows)
        _at_least(1, tile_length=self.tile_length)
        _at_least(0, num_draft_tokens=self.num_draft_tokens)
        _at_least(0, max_swapped_pages=self.max_swapped_pages, patience=self.patience)
        _at_least(self._fewest_tokens_per_step, max_tokens_per_step=self.max_tokens_per_step)
        if self.chunk_alignment is None:
            return
        if self.chunk_alignment < 1 or self.chunk_alignment % self.page_size:
            raise ValueError(
                f"chunk_alignment is {self.chunk_alignment}; it must be a multiple of page_size {self.page_size}."
            )
        if self.prefill_chunk % self.chunk_alignment:
            raise ValueError(
                f"prefill_chunk is {self.prefill_chunk}; it must be a multiple of chunk_alignment {self.chunk_alignment}."
            )

    @property
    def tokens_per_decode(self) -> int:
        """Tokens of a decoding row: its input and the draft after it."""
        return 1 + self.num_draft_tokens

    @property
    def max_pages(self) -> int:
        """Pages of the longest sequence: the width of a block table."""
        return self.pages_for(self.max_length)

    @property
    def _fewest_tokens_per_step(self) -> int:
        """So many that each running sequence takes part in each step: no prompt waits for others to stop decoding."""
        prefill = self.tile_length if self.chunk_alignment is None else self.prefill_chunk
        prefill = self.tiled(prefill)
        if self.prefill_only:
            return prefill
        others = (self.max_sequences - 1) * self.tokens_per_decode
        return others + max(prefill, self.tokens_per_decode)

    def tiled(self, num_tokens: int) -> int:
        """Returns how many tokens of a step a chunk of so many takes."""
        return -(-num_tokens // self.tile_length) * self.tile_length

    def pages_for(self, num_tokens: int) -> int:
        """Returns how many pages hold so many tokens."""
        return -(-num_tokens // self.page_size)

    def max_outputs(self, request: Request) -> int:
        """Returns how many tokens are drawn for a request here."""
        return 1 if self.prefill_only else request.params.max_tokens

    def check(self, request: Request) -> None:
        """Raises: RequestError if the request could not run even alone."""
        prompt, output = len(request.prompt_ids), request.params.max_tokens
        if prompt > self.max_length - 1:
            raise RequestError(
                f"The prompt has {prompt} tokens; prompt and output together are at most {self.max_length}, so it may have "
                f"{self.max_length - 1}.",
                param="prompt",
            )
        if prompt + output > self.max_length:
            raise RequestError(
                f"The prompt has {prompt} tokens and max_tokens is {output}, {prompt + output} together; at most "
                f"{self.max_length} are possible. Ask for max_tokens of at most {self.max_length - prompt}.",
                param="max_tokens",
            )
        # The last token that is drawn here is the input of no step, so it has no keys.
        most = (self.num_pages - 1) * self.page_size + 1
        total = prompt + self.max_outputs(request)
        if total > most:
            raise RequestError(
                f"The prompt has {prompt} tokens and {total - prompt} are to be drawn; their keys and values take "
                f"{self.pages_for(total - 1)} pages of {self.page_size} tokens and there are {self.num_pages - 1}. At most "
                f"{most} tokens together are possible.",
                param="prompt" if self.prefill_only else "max_tokens",
            )


@dataclasses.dataclass(frozen=True)
class QueueSize:
    """What waits to be run.

    Attributes:
        requests: how many.
        tokens: of their prompts.
    """

    requests: int
    tokens: int


class AdmissionError(Exception):
    """The queue is full: the request may come again later.

    Attributes:
        kind: which bound it would break.
        limit: that bound.
        actual: what the queue would hold.
    """

    def __init__(self, *, kind: Literal["requests", "tokens"], limit: int, actual: int):
        what = "requests" if kind == "requests" else "tokens of prompts"
        super().__init__(
            f"The queue holds at most {limit} {what}; this request would make {actual}."
        )
        self.kind, self.limit, self.actual = kind, limit, actual


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")
