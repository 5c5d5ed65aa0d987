"""What the server needs of an engine and of its tokenizer; and nothing of HTTP.

    class MyEngine: ...          # has what `Engine` has
    run_server(MyEngine(), host="127.0.0.1", port=8000, settings=ServerSettings())

These are protocols: an engine does not import them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol, runtime_checkable

from trellax.inference.requests import Output, Request
from trellax.inference.text import Tokenizer


class ModelCard(Protocol):
    """The model that is served.

    Attributes:
        id: the name that clients use.
        created: seconds since 1970.
        max_length: the most tokens of a prompt and its completion together.
        vocab_size: token ids are less than this.
    """

    @property
    def id(self) -> str: ...
    @property
    def created(self) -> int: ...
    @property
    def max_length(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


class HistogramSnapshot(Protocol):
    """How often values up to each bound were seen: `counts` has one more than `bounds`, for the rest."""

    @property
    def bounds(self) -> Sequence[float]: ...
    @property
    def counts(self) -> Sequence[int]: ...
    @property
    def sum(self) -> float: ...


class EngineStats(Protocol):
    """Gauges of now, and counters since the start.

    Attributes:
        num_running: sequences that compute.
        num_waiting: sequences that do not yet, or were pre-empted.
        page_usage: the share of the cache's pages in use, 0 to 1.
        prefix_cache_queries: tokens of prompts that were looked up among cached prefixes.
        prefix_cache_hits: those that were found.
        num_preemptions: sequences that lost their pages to others.
        num_compiles: programs compiled.
        num_drafted_rows: how often a sequence had drafts in a step.
        num_drafts: these drafts.
        num_accepted_drafts: those that were accepted.
        queue_time_s: seconds from arrival to the first step, of each request.
        prefill_time_s: seconds from there to the first token.
        step_tokens: tokens computed in a step.
    """

    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def page_usage(self) -> float: ...
    @property
    def prefix_cache_queries(self) -> int: ...
    @property
    def prefix_cache_hits(self) -> int: ...
    @property
    def num_preemptions(self) -> int: ...
    @property
    def num_compiles(self) -> int: ...
    @property
    def num_drafted_rows(self) -> int: ...
    @property
    def num_drafts(self) -> int: ...
    @property
    def num_accepted_drafts(self) -> int: ...
    @property
    def queue_time_s(self) -> HistogramSnapshot: ...
    @property
    def prefill_time_s(self) -> HistogramSnapshot: ...
    @property
    def step_tokens(self) -> HistogramSnapshot: ...


class Engine(Protocol):
    """Runs requests. All is called on the event loop's thread."""

    @property
    def model(self) -> ModelCard: ...
    @property
    def tokenizer(self) -> Tokenizer: ...

    def check(self, request: Request) -> None:
        """Raises `RequestError` if the request can never run."""

    def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Output, None]:
        """Runs all of them; yields pieces of each until it has a finish reason.

        Closing or cancelling the generator aborts what still runs, within a step.

        Raises:
            QueueFullError: before the first piece; then none of them runs.
        """

    def stats(self) -> EngineStats: ...

    def is_healthy(self) -> bool:
        """Returns False once nothing can run any more."""


@runtime_checkable
class EmbeddingEngine(Protocol):
    """What an engine has besides, whose model gives embeddings."""

    async def embed(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Returns one vector a prompt."""


Json = Any
"""A value that was read from JSON."""
