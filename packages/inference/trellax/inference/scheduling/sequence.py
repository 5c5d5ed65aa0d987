"""`Sequence`: a request on its way through the scheduler.

Tokens are counted in three ways: *known* ones are on the host; *planned* ones are drawn by some step that was planned, perhaps
not known yet, as the host plans one step ahead of the device; *computed* ones have their keys and values in the pages once all
planned steps ran. The last token has none: it is the input of the step to come.
"""

from __future__ import annotations

import enum

from trellax.inference.requests import FinishReason, Request
from trellax.inference.scheduling.prefixes import page_keys, root_key


class Status(enum.Enum):
    """Where a sequence is. `WAITING` and `SWAPPED` ones are in the queue, the latter with keys and values in host memory."""

    WAITING = "waiting"
    RUNNING = "running"
    SWAPPED = "swapped"
    HANDED_OVER = "handed over"
    FINISHED = "finished"


class Sequence:
    """A request and how far it is.

    Attributes:
        request: what was asked for.
        arrival: a number that no other sequence has; earlier ones are lower.
        rank: who comes first: the lower priority number, then who is due first, then the earlier arrival.
        status: where it is.
        finish_reason: why it ended, None if it has not.
        slot: its index on the device while it runs, else None.
        pages: its block table.
        num_computed: tokens whose keys and values are in the pages once all planned steps ran.
        output_ids: generated tokens that are known.
        num_planned_outputs: generated tokens, known or being drawn.
        max_outputs: how many are drawn here.
        num_cached: tokens of the prompt that a cached prefix served when it was first run.
        num_swapped: its pages in host memory.
        keys: of the full pages of known tokens, registered or not.
        num_registered: pages at the front that others can find, or could if they did not have their own.
        is_shareable: whether pages that it fills may be registered.
    """

    __slots__ = (
        "arrival",
        "finish_reason",
        "is_shareable",
        "keys",
        "max_outputs",
        "num_cached",
        "num_computed",
        "num_planned_outputs",
        "num_registered",
        "num_swapped",
        "output_ids",
        "page_size",
        "pages",
        "prompt_length",
        "rank",
        "request",
        "slot",
        "status",
    )

    def __init__(
        self,
        request: Request,
        *,
        arrival: int,
        max_outputs: int,
        page_size: int,
        is_shareable: bool,
    ):
        self.request, self.arrival = request, arrival
        self.rank = (request.priority, 0, arrival)
        self.prompt_length, self.page_size = len(request.prompt_ids), page_size
        self.status = Status.WAITING
        self.finish_reason: FinishReason | None = None
        self.slot: int | None = None
        self.pages: list[int] = []
        self.num_computed = self.num_planned_outputs = 0
        self.output_ids: list[int] = []
        self.max_outputs = max_outputs
        self.num_cached: int | None = None
        self.num_swapped = self.num_registered = 0
        self.is_shareable = is_shareable
        self.keys: list[bytes] = []
        if is_shareable:
            root = root_key(request.cache_salt)
            self.keys = page_keys(request.prompt_ids, page_size=page_size, parent=root)

    def set_due(self, due: int) -> None:
        """Says when it is to be computed, before it is put into any queue."""
        self.rank = (self.request.priority, due, self.arrival)

    @property
    def id(self) -> str:
        """The request's."""
        return self.request.id

    @property
    def num_known(self) -> int:
        """Tokens of prompt and output that the host knows."""
        return self.prompt_length + len(self.output_ids)

    @property
    def num_planned(self) -> int:
        """Tokens of prompt and output, known or being drawn."""
        return self.prompt_length + self.num_planned_outputs

    @property
    def is_decoding(self) -> bool:
        """Whether all tokens but the last that was drawn, or is being drawn, are computed."""
        outputs = self.num_planned_outputs
        return outputs > 0 and self.prompt_length + outputs - self.num_computed == 1

    @property
    def has_results_in_flight(self) -> bool:
        """Whether some token is being drawn."""
        return self.num_planned_outputs > len(self.output_ids)

    @property
    def is_fully_planned(self) -> bool:
        """Whether nothing is left to plan: its last token is drawn or being drawn."""
        return self.num_planned_outputs >= self.max_outputs

    @property
    def has_all_tokens(self) -> bool:
        """Whether max_tokens of the request are known, so that it ends now if nothing else has ended it."""
        return len(self.output_ids) >= self.request.params.max_tokens

    def token_ids(self, start: int, end: int) -> tuple[int, ...]:
        """Returns known tokens of prompt and output by position."""
        prompt, length = self.request.prompt_ids, self.prompt_length
        if end <= length:
            return prompt[start:end]
        return prompt[start:] + tuple(self.output_ids[max(start - length, 0) : end - length])

    def extend(self, token_ids: tuple[int, ...]) -> None:
        """Appends tokens that became known, and the keys of pages they fill."""
        self.output_ids.extend(token_ids)
        start = len(self.keys) * self.page_size
        if self.is_shareable and self.num_known - start >= self.page_size:
            parent = self.keys[-1] if self.keys else root_key(self.request.cache_salt)
            content = self.token_ids(start, self.num_known)
            self.keys += page_keys(content, page_size=self.page_size, parent=parent)
