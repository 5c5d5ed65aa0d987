"""A deterministic engine and its tokenizer: tokens are bytes, and a prompt's continuation is arithmetic.

    engine = FakeEngine()
    engine.text_of([72, 105], seed=None, length=5)

Ids 0 to 255 are bytes; 256 begins a text, 257 ends one. Without a seed the prompt's letters come again in
capitals, in turns; with one, letters are drawn by it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from trellax.inference.histogram import Histogram
from trellax.inference.requests import (
    FinishReason,
    Output,
    QueueFullError,
    Request,
    RequestError,
    TokenLogprobs,
)

BOS, EOS = 256, 257
TEMPLATE = (
    "{% for t in tools or [] %}[tool {{ t.function.name }}]{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


class ByteTokenizer:
    """Bytes as tokens."""

    vocab_size = 258
    bos_id = BOS
    eos_ids = frozenset({EOS})
    special_tokens = {"bos_token": "<s>", "eos_token": "</s>"}

    def __init__(self, chat_template: str | None = TEMPLATE):
        self.chat_template = chat_template

    def encode(
        self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True
    ) -> list[int]:
        return [BOS] * add_special_tokens + list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        pieces = [
            b"" if skip_special_tokens and self.is_special(i) else self.token_bytes(i) for i in ids
        ]
        return b"".join(pieces).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return {BOS: b"<s>", EOS: b"</s>"}.get(token_id) or bytes([token_id])

    def is_special(self, token_id: int) -> bool:
        return token_id >= BOS

    def to_json(self) -> str:
        raise NotImplementedError("Nothing here reads it.")


@dataclasses.dataclass
class FakeCard:
    id: str = "fake/model"
    created: int = 1_700_000_000
    max_length: int = 512
    vocab_size: int = 258


@dataclasses.dataclass
class FakeStats:
    num_running: int = 0
    num_waiting: int = 0
    page_usage: float = 0.25
    prefix_cache_queries: int = 40
    prefix_cache_hits: int = 10
    num_preemptions: int = 3
    num_compiles: int = 7
    num_drafted_rows: int = 5
    num_drafts: int = 20
    num_accepted_drafts: int = 12
    queue_time_s: Any = dataclasses.field(default_factory=lambda: Histogram([0.1, 1.0]))
    prefill_time_s: Any = dataclasses.field(default_factory=lambda: Histogram([0.1, 1.0]))
    step_tokens: Any = dataclasses.field(default_factory=lambda: Histogram([1.0, 10.0]))


class FakeEngine:
    """Runs requests side by side, a token of each a step.

    Attributes:
        step_s: how long a step takes; 0 lets other tasks run, None does not even that.
        forced: the text of every answer, where a test wants to say it.
        failure: is raised at the second token, if any.
        final: the finish reason of every request instead of its own, if any.
        queue_limit: sequences beyond which the queue is full.
        running: ids of requests that run.
        aborted: ids of requests that were aborted, in order.
        seen: all requests, in order.
    """

    def __init__(self, *, step_s: float | None = 0.0, max_length: int = 512):
        self.model = FakeCard(max_length=max_length)
        self.tokenizer = ByteTokenizer()
        self.step_s = step_s
        self.forced: str | None = None
        self.failure: Exception | None = None
        self.final: FinishReason | None = None
        self.error: str | None = None
        self.queue_limit = 10_000
        self.healthy = True
        self.running: set[str] = set()
        self.aborted: list[str] = []
        self.seen: list[Request] = []

    def check(self, request: Request) -> None:
        constraint = request.params.constraint
        if constraint is not None and "impossible" in constraint.text:
            raise RequestError(
                "The schema at /srv/models/a/schema.json:3 has no instance.",
                param="response_format",
            )

    def stats(self) -> FakeStats:
        return FakeStats(num_running=len(self.running))

    def is_healthy(self) -> bool:
        return self.healthy

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Output, None]:
        if len(self.running) + len(requests) > self.queue_limit:
            raise QueueFullError("requests", retry_after_s=2.4)
        self.seen.extend(requests)
        going = {r.id: self._pieces(r) for r in requests}
        self.running |= set(going)
        try:
            step = 0
            while going:
                if self.step_s is not None:
                    await asyncio.sleep(self.step_s)
                if self.failure is not None and step == 1:
                    raise self.failure
                for request_id in list(going):
                    output = going[request_id].pop(0)
                    yield output
                    if output.finish_reason is not None:
                        del going[request_id]
                        self.running.discard(request_id)
                step += 1
        finally:
            self.aborted += [i for i in going if i in self.running]
            self.running -= set(going)

    def text_of(self, prompt_ids: Sequence[int], *, seed: int | None, length: int) -> str:
        """Returns what follows a prompt."""
        if self.forced is not None:
            return self.forced[:length]
        if seed is not None:
            draw = random.Random(seed)
            return "".join(draw.choice("abcdefghij") for _ in range(length))
        letters = [chr(i).upper() for i in prompt_ids if chr(i).isalpha() and i < 128] or ["X"]
        return "".join(letters[i % len(letters)] for i in range(length))

    def _pieces(self, request: Request) -> list[Output]:
        params = request.params
        text = self.text_of(request.prompt_ids, seed=params.seed, length=params.max_tokens)
        ids = [*text.encode()][: params.max_tokens]
        reason: FinishReason = "length"
        stop_reason: str | int | None = None
        if self.forced is not None and len(ids) < params.max_tokens:
            ids.append(EOS)
            reason, stop_reason = "stop", EOS
        pieces = [self._piece(request, token) for token in ids]
        seen = ""
        for i, piece in enumerate(pieces):
            seen += piece.text
            stop = next((s for s in params.stop if s in seen), None)
            if stop is not None:
                pieces = pieces[: i + 1]
                reason, stop_reason = "stop", stop
                break
        scores = None if params.prompt_logprobs is None else _prompt_logprobs(request)
        pieces[0] = dataclasses.replace(pieces[0], prompt_logprobs=scores, num_cached_tokens=2)
        last = pieces[-1]
        pieces[-1] = dataclasses.replace(
            last,
            finish_reason=self.final or reason,
            stop_reason=stop_reason,
            error=self.error,
            text="" if isinstance(stop_reason, str) else last.text,
        )
        return pieces

    def _piece(self, request: Request, token: int) -> Output:
        wanted = request.params.logprobs
        logprobs = None if wanted is None else (_logprobs(token, wanted),)
        text = "" if token == EOS else chr(token) if token < 128 else ""
        return Output(request.id, (token,), text, logprobs=logprobs)


def _logprobs(token: int, count: int) -> TokenLogprobs:
    others = [(token + i) % 258 for i in range(count)]
    top = tuple((other, -0.5 - i) for i, other in enumerate(others))
    return TokenLogprobs(token, -0.5, 1, top)


def _prompt_logprobs(request: Request) -> tuple[TokenLogprobs | None, ...]:
    count = request.params.prompt_logprobs or 0
    return (None, *(_logprobs(token, count) for token in request.prompt_ids[1:]))
