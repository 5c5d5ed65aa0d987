"""`Tracked`: what the engine knows of a request while it runs, and what becomes of each token that is drawn for it."""

from __future__ import annotations

import time
from typing import Any

from trellax.inference.constraints import Matcher
from trellax.inference.requests import FinishReason, Output, Request, TokenLogprobs
from trellax.inference.text import TextStream, Tokenizer


class Tracked:
    """A running request.

    Attributes:
        request: what was asked for.
        seed: of its draws.
        end_ids: tokens that end it.
        matcher: where its text is in its grammar; None without one.
        output_ids: tokens drawn so far.
        seen_slot: the slot that knows its tokens, for penalties; None for none.
        prompt_logprobs: of the prompt's tokens so far, if they are asked for.
        arrived_at: seconds of the monotonic clock.
        started_at: when its first step was planned.
        finish_reason: why it ended.
        drafts: what the proposer keeps of it.
    """

    def __init__(
        self,
        request: Request,
        *,
        seed: int,
        tokenizer: Tokenizer | None,
        eos_ids: frozenset[int],
        matcher: Matcher | None = None,
        drafts: Any = None,
    ):
        params = request.params
        self.request, self.seed, self.matcher, self.drafts = request, seed, matcher, drafts
        self.end_ids = frozenset(params.stop_token_ids) | (
            frozenset() if params.ignore_eos else eos_ids
        )
        self._eos_ids = eos_ids
        self._stream = None if tokenizer is None else _stream(tokenizer, request)
        self.output_ids: list[int] = []
        self.seen_slot: int | None = None
        self.num_cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprobs | None] | None = (
            None if params.prompt_logprobs is None else [None]
        )
        self._has_told_prompt = False
        self.arrived_at = time.monotonic()
        self.started_at: float | None = None
        self.finish_reason: FinishReason | None = None

    @property
    def has_penalties(self) -> bool:
        """Whether its draws depend on the tokens that it has."""
        p = self.request.params
        return bool(p.presence_penalty or p.frequency_penalty or p.repetition_penalty != 1)

    def biases(self, step: int) -> list[tuple[int, float]]:
        """Returns what is added to its logits at a step; end tokens are banned before `min_tokens`."""
        params = self.request.params
        biases = list(params.logit_bias)
        if step < params.min_tokens:
            biases += [(token, float("-inf")) for token in self.end_ids | self._eos_ids]
        return biases

    def take(self, token_ids: list[int], logprobs: list[TokenLogprobs | None]) -> Output:
        """Takes the tokens that a step has drawn, up to the one that ends the request, and returns what the client gets."""
        text, taken = "", 0
        stop_reason: str | int | None = None
        error: str | None = None
        for token in token_ids:
            taken += 1
            error = self._mistake(token)
            if error is not None:
                self.finish_reason, taken = "error", taken - 1
                break
            self.output_ids.append(token)
            piece, stop_reason = self._ended_by(token)
            text += piece
            if self.finish_reason is not None:
                break
        if self.finish_reason is not None and not isinstance(stop_reason, str):
            text += self._left()
        return self._output(
            token_ids=tuple(token_ids[:taken]),
            text=text,
            logprobs=logprobs[:taken],
            stop_reason=stop_reason,
            error=error,
        )

    def ended(self, reason: FinishReason, error: str | None = None) -> Output:
        """Ends the request for a reason that no token gave."""
        self.finish_reason = reason
        return self._output(
            token_ids=(), text=self._left(), logprobs=[], stop_reason=None, error=error
        )

    def _left(self) -> str:
        """Returns the text that was held back."""
        return "" if self._stream is None else self._stream.flush()

    def _mistake(self, token: int) -> str | None:
        if token < 0:
            return "The model's logits are not numbers."
        if self.matcher is not None and not self.matcher.accept(token):
            return f"The output cannot go on as it must: {self.matcher.error or 'nothing fits'}."
        return None

    def _ended_by(self, token: int) -> tuple[str, str | int | None]:
        """Returns the token's text and the stop text or token that ends the request; sets why it ended."""
        params = self.request.params
        if token in self.end_ids:
            self.finish_reason = "stop"
            return "", (token if token in params.stop_token_ids else None)
        text, stopped_by = "", None
        if self._stream is not None:
            text, stopped_by, _ = self._stream.feed((token,))
        is_complete = self.matcher is not None and self.matcher.is_done()
        if stopped_by is not None or is_complete:
            self.finish_reason = "stop"
        elif len(self.output_ids) >= params.max_tokens:
            self.finish_reason = "length"
        return text, stopped_by

    def _output(
        self,
        *,
        token_ids: tuple[int, ...],
        text: str,
        logprobs: list[TokenLogprobs | None],
        stop_reason: str | int | None,
        error: str | None,
    ) -> Output:
        wants = self.request.params.logprobs is not None
        prompt_logprobs = None
        if self.prompt_logprobs is not None and not self._has_told_prompt:
            prompt_logprobs, self._has_told_prompt = tuple(self.prompt_logprobs), True
        return Output(
            request_id=self.request.id,
            token_ids=token_ids,
            text=text,
            logprobs=tuple(x for x in logprobs if x is not None) if wants else None,
            prompt_logprobs=prompt_logprobs,
            num_cached_tokens=self.num_cached_tokens,
            finish_reason=self.finish_reason,
            stop_reason=stop_reason,
            error=error,
        )


def _stream(tokenizer: Tokenizer, request: Request) -> TextStream:
    params = request.params
    return TextStream(
        tokenizer,
        stop=params.stop,
        include_stop=params.include_stop,
        min_tokens=params.min_tokens,
        skip_special_tokens=params.skip_special_tokens,
    )
