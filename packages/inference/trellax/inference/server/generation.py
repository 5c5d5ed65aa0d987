"""`GenerationResponse`: runs requests, and answers whole or as a stream of events.

    return GenerationResponse(service, answer, requests, samples, stream=True, key="")

Everything that can be refused is refused before the status is sent, so with a status of its own; what goes
wrong later is an event with an error, after which the stream ends without `[DONE]`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterator

from starlette.types import Receive, Scope, Send

from trellax.inference.requests import Output, QueueFullError, Request
from trellax.inference.server.answer import KEEP_ALIVE, Answer, encode, joined
from trellax.inference.server.errors import ApiError, as_api_error, engine_stopped, scrubbed
from trellax.inference.server.sample import Sample
from trellax.inference.server.service import Service
from trellax.inference.server.supervision import ClientGone, supervise

_EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # Proxies that hold responses back do not hold this one.
]
_JSON_HEADERS = [(b"content-type", b"application/json")]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be generated.

    Attributes:
        requests: one a sample.
        samples: in the same order.
        scores_only: whether the token that every request draws is dropped, since only the prompt is scored.
    """

    requests: tuple[Request, ...]
    samples: tuple[Sample, ...]
    scores_only: bool = False


class GenerationResponse:
    """An ASGI application that answers one request."""

    def __init__(self, service: Service, job: Job, answer: Answer, *, stream: bool, key: str):
        """
        Args:
            service: what the server has.
            job: what to run.
            answer: its shape.
            stream: whether to send pieces as they come.
            key: which client asks.
        """
        self._service = service
        self._job = job
        self._answer = answer
        self._stream = stream
        self._key = key
        self._started = False
        self._last_sent_s = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers; raises what happens before the status is sent."""
        settings = self._service.settings

        async def tick() -> None:
            if self._stream and time.monotonic() - self._last_sent_s >= settings.keep_alive_s:
                await self._send_events(send, KEEP_ALIVE)

        work = self._send_stream(send) if self._stream else self._send_whole(send)
        try:
            with (
                self._service.admission.admit(self._key, self._job.requests),
                self._counted(),
                self._service.running.entered() as ended,
            ):
                await supervise(
                    work,
                    receive,
                    ended,
                    limit_s=settings.limits.request_s,
                    tick_s=settings.keep_alive_s,
                    on_tick=tick,
                )
        except ClientGone:
            pass
        except Exception as error:
            if not self._started:
                raise
            await self._send_error(send, as_api_error(error))
        finally:
            work.close()

    async def _send_stream(self, send: Send) -> None:
        answer = self._answer

        async def take(sample: Sample, output: Output) -> None:
            await self._send_events(send, answer.chunk(sample, output))

        await self._generate(take)
        await self._send_events(send, answer.last_chunks(), more=False)

    async def _send_whole(self, send: Send) -> None:
        pieces: list[list[Output]] = [[] for _ in self._job.samples]

        async def take(sample: Sample, output: Output) -> None:
            pieces[sample.index].append(output)

        await self._generate(take)
        body = encode(self._answer.whole([joined(p) for p in pieces])).encode()
        await self._start(send, [*_JSON_HEADERS, (b"content-length", b"%d" % len(body))])
        await send({"type": "http.response.body", "body": body})

    async def _generate(self, take: Callable[[Sample, Output], Awaitable[None]]) -> None:
        job, metrics = self._job, self._service.metrics
        by_id = {r.id: s for r, s in zip(job.requests, job.samples, strict=True)}
        async with contextlib.aclosing(self._service.engine.generate(job.requests)) as outputs:
            async for output in outputs:
                if job.scores_only:
                    output = _without_tokens(output)
                sample = by_id[output.request_id]
                sample.add(output, now_s=time.perf_counter(), metrics=metrics)
                if output.finish_reason in ("abort", "error"):
                    raise self._failure(output)
                await take(sample, output)
        if any(sample.finish_reason is None for sample in job.samples):
            raise engine_stopped()

    async def _send_events(self, send: Send, events: bytes, *, more: bool = True) -> None:
        if not self._started:
            await self._start(send, _EVENT_HEADERS)
        self._last_sent_s = time.monotonic()
        await send({"type": "http.response.body", "body": events, "more_body": more})

    async def _start(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send_error(self, send: Send, error: ApiError) -> None:
        event = f"data: {encode(error.body())}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": False})

    def _failure(self, output: Output) -> ApiError:
        if not self._service.engine.is_healthy():
            return engine_stopped()
        if output.finish_reason == "abort":
            return ApiError(503, "The server has ended the request.", code="aborted")
        message = scrubbed(output.error or "The engine failed on this request.")
        return ApiError(500, message, code="engine_error")

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts samples that end without a finish reason: the client has left, or something failed. What was not
        admitted is counted as that."""
        metrics = self._service.metrics
        reason: str | None = "abort"
        try:
            yield
        except QueueFullError as error:
            metrics.rejections[error.kind] += 1
            reason = None
            raise
        except ClientGone:
            raise
        except Exception:
            reason = "error"
            raise
        finally:
            if reason is not None:
                for sample in self._job.samples:
                    sample.end(reason, now_s=time.perf_counter(), metrics=metrics)


def _without_tokens(output: Output) -> Output:
    reason = "length" if output.finish_reason in ("stop", "length") else output.finish_reason
    return dataclasses.replace(
        output, token_ids=(), text="", logprobs=(), finish_reason=reason, stop_reason=None
    )
