"""`Output`: what a request has produced since the last one."""

from __future__ import annotations

import dataclasses
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]
"""Why a request ended: an end token or stop text; max_tokens or the model's longest sequence; a client that left; a fault."""


@dataclasses.dataclass(frozen=True)
class TokenLogprobs:
    """The log-probability of a token and of its likeliest alternatives, in nats, before any change of the logits.

    Attributes:
        token_id: the token.
        logprob: its own.
        rank: 1 for the likeliest.
        top: (token id, log-probability) of the likeliest, best first.
    """

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Output:
    """A piece of a request's result; pieces concatenate to the whole.

    Attributes:
        request_id: whose.
        token_ids: new tokens. The end token, where one ended the request, is the last.
        text: new text, complete characters only, without stop texts and special tokens.
        logprobs: one for each of `token_ids`, if asked for.
        prompt_logprobs: with the first piece, if asked for: one for each token of the prompt, None for the first.
        num_cached_tokens: tokens of the prompt that a cached prefix has served.
        finish_reason: why the request ended; None if it goes on. Nothing follows a piece that has one.
        stop_reason: the stop text or the end token that ended it.
        error: what went wrong, for `finish_reason` "error"; safe to show to the client.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: str | None = None
