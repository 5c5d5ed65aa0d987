"""`DisaggregatedEngine`: looks like one engine, and prefills and decodes on workers of two roles.

    engine = DisaggregatedEngine(model, tokenizer, prefill_workers, decode_workers, check_fn=check, page_size=16)
    async for output in engine.generate([request]): ...

A request takes a place at a decode worker, then one at a prefill worker, so nothing is prefilled that nobody can take up.
Its prefill worker hands its pages to its decode worker directly. If either fails, the request begins again elsewhere from
its prompt and the tokens that were delivered: draws depend on the seed and the position alone, so the rest is the same as it
would have been. The result is that of a single engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence

from trellax.inference.disaggregation.affinity import PrefixAffinity
from trellax.inference.disaggregation.errors import TransportError, WorkerError
from trellax.inference.disaggregation.pool import WorkerPool
from trellax.inference.disaggregation.run import Run
from trellax.inference.disaggregation.streams import ended_task, merged, next_before
from trellax.inference.disaggregation.workers import DecodeWorker, PrefillWorker
from trellax.inference.engine import EngineStats
from trellax.inference.histogram import QUEUE_S, Histogram
from trellax.inference.requests import Output, QueueFullError, Request
from trellax.inference.server import ModelCard
from trellax.inference.text import Tokenizer

_UNAVAILABLE = "The request could not be finished; try again later."


@dataclasses.dataclass(frozen=True)
class DisaggregatedStats(EngineStats):
    """Stats over all workers; steps are counted where they are computed.

    Attributes:
        num_retries: requests that began again because a worker had failed.
        num_failures: of each worker.
    """

    num_retries: int
    num_failures: dict[str, int]


class DisaggregatedEngine:
    """An engine of workers, as the server wants one; for one event loop."""

    def __init__(
        self,
        model: ModelCard,
        tokenizer: Tokenizer,
        prefill_workers: Sequence[PrefillWorker],
        decode_workers: Sequence[DecodeWorker],
        *,
        check_fn: Callable[[Request], None],
        page_size: int,
        max_waiting: int = 1024,
        max_failures: int = 4,
        rest_s: float = 5.0,
        slack_tokens: int = 8192,
        seed: int | None = None,
    ):
        """
        Args:
            model: what is served.
            tokenizer: the model's.
            prefill_workers: to begin with; `set_workers` replaces them.
            decode_workers: to begin with.
            check_fn: raises a `RequestError` for a request that no worker can ever run.
            page_size: tokens of a page of the workers' caches.
            max_waiting: requests that may wait for a worker before others are turned away.
            max_failures: that workers may have with a request before it ends with an error; it may be its own fault.
            rest_s: seconds that a worker gets no requests after it has failed.
            slack_tokens: that a prefill worker may have under way more than another and still be chosen because it
                has a prompt's beginning in its cache.
            seed: of the seeds of requests that bring none; None for the operating system's randomness.
        """
        self.model = model
        self.tokenizer = tokenizer
        self._prefill = WorkerPool(prefill_workers, slack=slack_tokens, rest_s=rest_s)
        self._decode = WorkerPool(decode_workers, slack=0, rest_s=rest_s)
        self._affinity = PrefixAffinity(page_size=page_size)
        self._check_fn = check_fn
        self._max_waiting = max_waiting
        self._max_failures = max_failures
        self._seeds = random.Random(seed)
        self._is_closed = False
        self._num_active = self._num_retries = 0
        self._num_prompt_tokens = self._num_cached_tokens = 0
        self._queue_time_s, self._prefill_time_s = Histogram(QUEUE_S), Histogram(QUEUE_S)

    def check(self, request: Request) -> None:
        """Raises a `RequestError` if the request can never run."""
        self._check_fn(request)

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Output, None]:
        """Runs all requests; yields pieces of each until it has a finish reason. Closing aborts what still runs.

        Raises:
            QueueFullError: before the first piece; then none of them runs.
            RequestError: one of them can never run; then none does.
        """
        for request in requests:
            self.check(request)
        if self._num_waiting + len(requests) > self._max_waiting:
            raise QueueFullError("requests", retry_after_s=1.0)
        async with contextlib.aclosing(
            merged([self._run(request) for request in requests])
        ) as all_:
            async for piece in all_:
                yield piece

    def stats(self) -> DisaggregatedStats:
        """Returns what all workers do now, and have done."""
        gauges = [worker.gauges() for worker in self._prefill.workers]
        gauges += [worker.gauges() for worker in self._decode.workers]
        return DisaggregatedStats(
            num_running=self._num_active - self._num_waiting,
            num_waiting=self._num_waiting,
            page_usage=sum(gauge.page_usage for gauge in gauges) / max(len(gauges), 1),
            prefix_cache_queries=self._num_prompt_tokens,
            prefix_cache_hits=self._num_cached_tokens,
            num_preemptions=sum(gauge.num_preemptions for gauge in gauges),
            num_compiles=sum(gauge.num_compiles for gauge in gauges),
            num_drafted_rows=sum(gauge.num_drafted_rows for gauge in gauges),
            num_drafts=sum(gauge.num_drafts for gauge in gauges),
            num_accepted_drafts=sum(gauge.num_accepted_drafts for gauge in gauges),
            queue_time_s=self._queue_time_s,
            prefill_time_s=self._prefill_time_s,
            step_tokens=Histogram(()),
            num_retries=self._num_retries,
            num_failures={**self._prefill.num_failures, **self._decode.num_failures},
        )

    def is_healthy(self) -> bool:
        """Whether it is open: workers that have failed come back, or others come."""
        return not self._is_closed

    def set_prefill_workers(self, workers: Sequence[PrefillWorker]) -> None:
        """Replaces the prefill workers, as the role is scaled. Those that leave finish what they have."""
        self._prefill.set_workers(workers)

    def set_decode_workers(self, workers: Sequence[DecodeWorker]) -> None:
        """Replaces the decode workers, as the role is scaled. Those that leave finish what they have."""
        self._decode.set_workers(workers)

    async def close(self) -> None:
        """Closes all workers; what runs fails."""
        self._is_closed = True
        await asyncio.gather(self._prefill.close(), self._decode.close())

    @property
    def _num_waiting(self) -> int:
        return self._prefill.num_waiting + self._decode.num_waiting

    async def _run(self, request: Request) -> AsyncGenerator[Output, None]:
        run = Run(self._seeded(request))
        self._num_active += 1
        try:
            while run.num_failures < self._max_failures:
                try:
                    async with contextlib.aclosing(self._attempt(run)) as pieces:
                        async for piece in pieces:
                            yield run.deliver(piece)
                            if piece.finish_reason is not None:
                                return
                except (TransportError, WorkerError):
                    run.num_attempts += 1
                    self._num_retries += 1
            if run.is_unreached:  # Nothing is wrong with it: it may come again.
                yield Output(request.id, finish_reason="abort")
            else:
                yield Output(request.id, finish_reason="error", error=_UNAVAILABLE)
        finally:
            self._num_active -= 1

    def _seeded(self, request: Request) -> Request:
        # An engine that goes on for another must draw as that would have.
        if request.params.seed is not None:
            return request
        params = dataclasses.replace(request.params, seed=self._seeds.getrandbits(31))
        return dataclasses.replace(request, params=params)

    async def _attempt(self, run: Run) -> AsyncGenerator[Output, None]:
        request, begin = run.next_request(), time.monotonic()
        load = len(request.prompt_ids) + request.params.max_tokens
        async with (
            self._decode.take(
                load=load, priority=request.priority, avoided=run.failed_decode
            ) as decode,
            # The worker is told before pages can come, and watched while they are made.
            contextlib.aclosing(self._decoded(run, request, decode)) as following,
            ended_task(anext(following, None)) as first,
        ):
            async with (
                self._place_to_prefill(run, request) as prefill,
                contextlib.aclosing(self._prefilled(run, request, prefill, decode)) as pieces,
            ):
                self._queue_time_s.observe(time.monotonic() - begin)
                while (piece := await next_before(pieces, first)) is not None:
                    yield piece
                    if piece.finish_reason is not None:
                        return
            piece = await first
            while piece is not None:
                yield piece
                piece = await anext(following, None)

    def _place_to_prefill(
        self, run: Run, request: Request
    ) -> contextlib.AbstractAsyncContextManager[PrefillWorker]:
        return self._prefill.take(
            load=len(request.prompt_ids) + len(run.delivered_ids),
            priority=request.priority,
            preferred=self._affinity.ranked(request),
            avoided=run.failed_prefill,
        )

    async def _prefilled(
        self, run: Run, request: Request, prefill: PrefillWorker, decode: DecodeWorker
    ) -> AsyncGenerator[Output, None]:
        self._affinity.note(request, prefill.name)
        begin, earlier_ids = time.monotonic(), tuple(run.delivered_ids)
        with self._blaming(run, decode=decode):
            target = await decode.target()
        with self._blaming(run, prefill=prefill, decode=decode):
            stream = prefill.prefill(request, earlier_ids=earlier_ids, target=target)
            async with contextlib.aclosing(stream) as pieces:
                async for piece in pieces:
                    self._prefill_time_s.observe(time.monotonic() - begin)
                    self._num_prompt_tokens += len(request.prompt_ids)
                    self._num_cached_tokens += piece.num_cached_tokens
                    yield piece

    async def _decoded(
        self, run: Run, request: Request, decode: DecodeWorker
    ) -> AsyncGenerator[Output, None]:
        with self._blaming(run, decode=decode):
            async with contextlib.aclosing(decode.resume(request.id)) as pieces:
                async for piece in pieces:
                    yield piece
                    if piece.finish_reason is not None:
                        return
            raise WorkerError(f"{decode.name} ended a request without a reason.")

    @contextlib.contextmanager
    def _blaming(
        self, run: Run, *, prefill: PrefillWorker | None = None, decode: DecodeWorker | None = None
    ) -> Generator[None, None, None]:
        """Lets workers rest that have failed. Of pages that did not arrive, either end may be the cause."""
        try:
            yield
        except (TransportError, WorkerError) as error:
            if prefill is not None and not isinstance(error, TransportError):
                decode = None
            if prefill is not None:
                self._prefill.fail(prefill)
            if decode is not None:
                self._decode.fail(decode)
            run.fail(
                error,
                prefill=None if prefill is None else prefill.name,
                decode=None if decode is None else decode.name,
            )
            logging.getLogger(__name__).warning("A worker rests: %s", error)
            raise
