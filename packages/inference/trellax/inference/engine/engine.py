"""`Engine`: an `EngineCore` on a thread of its own, for any number of callers on event loops.

    engine = Engine(core, tokenizer=tokenizer, model=ModelCard(id="smollm2", max_length=2048, vocab_size=49152))
    async for output in engine.generate([request]): ...
    engine.close()

The thread owns the core; callers leave commands and get pieces of output, those of a step in one wake-up of their loop.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import jax

from trellax.inference.constraints import ConstraintCompiler, Matcher
from trellax.inference.engine.core import EngineCore, HandedOver
from trellax.inference.engine.stats import EngineStats
from trellax.inference.requests import Output, QueueFullError, Request, RequestError
from trellax.inference.text import Tokenizer
from trellax.layers import is_state_axis

_FAULT = "The engine has failed; the request may be sent again once it is back."


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """The model that is served.

    Attributes:
        id: the name that clients use.
        max_length: the most tokens of a prompt and its completion together.
        vocab_size: token ids are less than this.
        created: seconds since 1970.
    """

    id: str
    max_length: int
    vocab_size: int
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))


class _Caller:
    """Where the pieces of some requests go: a queue on an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop = loop
        self.outputs: asyncio.Queue[Output] = asyncio.Queue()

    def deliver(self, outputs: list[Output]) -> None:
        """Runs on the loop."""
        for output in outputs:
            self.outputs.put_nowait(output)


class Engine:
    """Runs requests. All public methods may be called from any thread."""

    def __init__(
        self,
        core: EngineCore,
        *,
        tokenizer: Tokenizer,
        model: ModelCard,
        on_failure: Callable[[], None] | None = None,
    ):
        """
        Args:
            core: not to be used by anybody else from now on.
            tokenizer: the model's.
            model: what clients are told of it.
            on_failure: called from the engine's thread when it has failed.
        """
        self._core, self.tokenizer, self.model = core, tokenizer, model
        self._on_failure = on_failure
        self._commands: collections.deque[Callable[[], None]] = collections.deque()
        self._wake = threading.Condition()
        self._callers: dict[str, _Caller] = {}
        self._is_closing = self._has_failed = self._is_over = False
        self._num_pending = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @functools.cached_property
    def _constraints(self) -> ConstraintCompiler:
        """Made when the first request asks for it: it reads the whole vocabulary.

        Raises:
            RequestError: constrained output is not to be had here.
        """
        try:
            return ConstraintCompiler(self.tokenizer, vocab_size=self.model.vocab_size)
        except (ImportError, ValueError) as error:
            raise RequestError(str(error), param="response_format") from error

    # ---- for callers ----------------------------------------------------------------------------

    def check(self, request: Request) -> None:
        """Raises `RequestError` if the request can never run."""
        self._core.state.limits.check(request)
        highest = max(request.prompt_ids)
        assert highest < self.model.vocab_size, "Prompts are checked where they are made."
        if request.params.constraint is not None:
            self._constraints.compile(request.params.constraint)

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Output, None]:
        """Runs all of them; yields pieces of each until it has a finish reason.

        Closing or cancelling the generator aborts what still runs, within a step.

        Raises:
            QueueFullError: before the first piece; then none of them runs.
            RequestError: one of them can never run; then none does.
        """
        for request in requests:
            self.check(request)
        self._check_queue(requests)
        matchers = [await self._matcher(request) for request in requests]
        caller = _Caller(asyncio.get_running_loop())
        adds = list(zip(requests, matchers, strict=True))
        self._ask(lambda: self._add(caller, adds), num_requests=len(adds))
        pieces = self._followed(caller, {request.id for request in requests})
        async with contextlib.aclosing(pieces):
            async for output in pieces:
                yield output

    async def prefill(
        self, request: Request, *, earlier_ids: tuple[int, ...] = ()
    ) -> tuple[Output, HandedOver | None]:
        """Computes a prompt, and draws one token; the engine's limits say `prefill_only`.

        Args:
            request: as the client sent it.
            earlier_ids: tokens of its output that the client has.

        Returns:
            (the piece with the token, how to go on: None if the token ends the request). Cancelling aborts it.
        """
        self.check(request)
        matcher = await self._matcher(request)
        caller = _Caller(asyncio.get_running_loop())
        self._ask(lambda: self._add(caller, [(request, matcher)], earlier_ids), num_requests=1)
        try:
            output = await caller.outputs.get()
        except asyncio.CancelledError:
            self._command(lambda: self._forget(request.id))
            raise
        return output, self._core.handed_over.pop(request.id, None)

    async def resume(
        self, request: Request, handed: HandedOver
    ) -> AsyncGenerator[Output, None] | None:
        """Takes a sequence up; returns what yields the pieces that follow, or None if there is no room now.

        Closing the generator aborts the sequence.
        """
        matcher = await self._matcher(request)
        caller = _Caller(asyncio.get_running_loop())
        taken: asyncio.Future[bool] = caller.loop.create_future()

        def take() -> None:
            try:
                found = self._core.resume(request, handed.token_ids, handed.arrays, matcher)
            except Exception as error:  # A peer's mistake ends its own request, not the engine.
                caller.loop.call_soon_threadsafe(taken.set_exception, error)
                return
            if found:
                self._callers[request.id] = caller
            caller.loop.call_soon_threadsafe(taken.set_result, found)

        self._ask(take)
        return self._followed(caller, {request.id}) if await taken else None

    async def _followed(self, caller: _Caller, running: set[str]) -> AsyncGenerator[Output, None]:
        """Yields pieces until each request has a finish reason; aborts those that have none when it is closed."""
        try:
            while running:
                output = await caller.outputs.get()
                if output.finish_reason is not None:
                    running.discard(output.request_id)
                yield output
        finally:
            if running:
                self._command(lambda: self._abort(frozenset(running)))

    async def _matcher(self, request: Request) -> Matcher | None:
        constraint = request.params.constraint
        if constraint is None:
            return None
        return await asyncio.to_thread(self._constraints.compile, constraint)

    def _check_queue(self, requests: Sequence[Request]) -> None:
        if self._has_failed or self._is_closing:
            raise QueueFullError("requests", retry_after_s=5.0)
        pending = self._num_pending
        limits = self._core.state.limits
        for number, request in enumerate(requests, start=1):
            error = self._core.state.admission(request)
            if error is not None:
                raise QueueFullError(error.kind, retry_after_s=self._retry_after())
            # What the thread has not queued yet counts, too.
            most, queued = limits.max_queued_requests, self._core.state.queued().requests
            places = len(self._core.state.free_slots)
            if most is not None and queued + pending + number > most + places:
                raise QueueFullError("requests", retry_after_s=self._retry_after())

    def _retry_after(self) -> float:
        """Returns about how long the queue takes to give a place free: what requests have waited of late."""
        seen = self._core.stats.queue_time_s
        return min(max(seen.sum / max(sum(seen.counts), 1), 1.0), 60.0)

    def stats(self) -> EngineStats:
        """Returns gauges of now, and counters since the start."""
        state, stats = self._core.state, self._core.stats
        return EngineStats(
            num_running=len(state.running),
            num_waiting=len(state.waiting),
            page_usage=1 - state.pages.num_available / (state.limits.num_pages - 1),
            prefix_cache_queries=state.num_prefix_queries,
            prefix_cache_hits=state.num_prefix_hits,
            num_preemptions=state.num_preemptions,
            num_compiles=self._core.runner.num_compiles,
            num_drafted_rows=stats.num_drafted_rows,
            num_drafts=stats.num_drafts,
            num_accepted_drafts=stats.num_accepted_drafts,
            queue_time_s=stats.queue_time_s,
            prefill_time_s=stats.prefill_time_s,
            step_tokens=stats.step_tokens,
        )

    def is_healthy(self) -> bool:
        """Returns False once nothing can run any more."""
        return self._thread.is_alive() and not self._has_failed

    def close(self) -> None:
        """Ends the thread; what still runs is told that it is aborted."""
        self._is_closing = True
        self._command(lambda: None)
        self._thread.join()

    def state_structure(self) -> Any:
        """Returns the tree that states of sequences are in, `jax.tree.structure` of it."""
        return jax.tree.structure(self._core.runner.state_axes, is_leaf=is_state_axis)

    # ---- the thread -----------------------------------------------------------------------------

    def _command(self, command: Callable[[], None], *, num_requests: int = 0) -> bool:
        """Has the thread do something; returns False if it has ended, and nothing will be done.

        Args:
            command: what to do.
            num_requests: that it adds; they count as pending until the command begins.
        """
        with self._wake:
            if self._is_over:
                return False
            self._num_pending += num_requests
            self._commands.append(command)
            self._wake.notify()
            return True

    def _ask(self, command: Callable[[], None], *, num_requests: int = 0) -> None:
        """Does the same for a caller who waits for an answer.

        Raises:
            QueueFullError: there will be none.
        """
        if not self._command(command, num_requests=num_requests):
            raise QueueFullError("requests", retry_after_s=5.0)

    def _run(self) -> None:
        message = "The server is shutting down."
        try:
            while not self._is_closing:
                self._take_commands()
                if self._core.has_work:
                    self._deliver(self._core.step())
        except Exception:
            self._has_failed, message = True, _FAULT
            logging.getLogger(__name__).exception("The engine has failed.")
        self._take_last_commands()
        self._deliver(self._core.fail_all(message))
        if self._has_failed and self._on_failure is not None:
            self._on_failure()

    def _take_last_commands(self) -> None:
        """Takes up what was asked for before the end, so that it is answered, and nothing more."""
        with self._wake:
            self._is_over = True
            commands, self._commands = self._commands, collections.deque()
        for command in commands:
            with contextlib.suppress(Exception):  # The core may be what has failed.
                command()

    def _take_commands(self) -> None:
        """Does what was asked for; without work it waits until something is."""
        with self._wake:
            while not (self._commands or self._core.has_work or self._is_closing):
                self._wake.wait()
            commands, self._commands = self._commands, collections.deque()
        for command in commands:
            command()

    def _add(
        self,
        caller: _Caller,
        adds: Sequence[tuple[Request, Matcher | None]],
        earlier_ids: tuple[int, ...] = (),
    ) -> None:
        with self._wake:
            self._num_pending -= len(adds)
        for request, matcher in adds:
            try:
                self._core.add(request, matcher, earlier_ids)
            except ValueError as error:
                refused = Output(request.id, finish_reason="error", error=str(error))
                self._tell(caller, [refused])
            else:
                self._callers[request.id] = caller

    def _forget(self, request_id: str) -> None:
        """Drops a request that is prefilled, or was, and that nobody waits for."""
        self._core.abort(request_id)
        self._core.handed_over.pop(request_id, None)

    def _abort(self, request_ids: frozenset[str]) -> None:
        for request_id in request_ids:
            self._core.abort(request_id)

    def _deliver(self, outputs: list[Output]) -> None:
        by_caller: dict[int, tuple[_Caller, list[Output]]] = {}
        for output in outputs:
            handed_over = output.request_id in self._core.handed_over
            ended = output.finish_reason is not None or handed_over
            take = self._callers.pop if ended else self._callers.__getitem__
            caller: Any = take(output.request_id)
            by_caller.setdefault(id(caller), (caller, []))[1].append(output)
        for caller, theirs in by_caller.values():
            self._tell(caller, theirs)

    def _tell(self, caller: _Caller, outputs: list[Output]) -> None:
        with contextlib.suppress(RuntimeError):  # The caller's loop is closed: nobody listens.
            caller.loop.call_soon_threadsafe(caller.deliver, outputs)
