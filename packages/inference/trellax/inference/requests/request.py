"""`Request`: a prompt, and how to continue it.

    Request(id="cmpl-1", prompt_ids=(1, 5, 9), params=SamplingParams(max_tokens=32, temperature=0.0))

All are frozen values that check themselves, so whoever holds one holds a good one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

MAX_LOGPROBS = 20
"""Alternatives that a client may ask for at each token, as in OpenAI's interface."""


class RequestError(ValueError):
    """A request asks for something that there is not; the message says what would do.

    Attributes:
        param: the field that is wrong, None where it is no single one.
    """

    def __init__(self, message: str, *, param: str | None = None):
        super().__init__(message)
        self.param = param


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    finite = not isinstance(value, float) or math.isfinite(value)
    if not (holds and finite):
        raise RequestError(f"{name} is {value!r}; it must be {expected}.", param=name)


@dataclasses.dataclass(frozen=True)
class Constraint:
    """What the generated text must match.

    Attributes:
        kind: how `text` is to be read. "json_object" is any JSON object and has no text.
        text: a JSON schema (as JSON), a regular expression, a Lark grammar, or a JSON list of strings.
    """

    kind: Literal["json_schema", "json_object", "regex", "grammar", "choice"]
    text: str = ""


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn, and when to stop.

    Attributes:
        max_tokens: exactly so many are drawn unless something else ends the request earlier.
        temperature: logits are divided by it; 0 takes the most likely token.
        top_k: draw from the k most likely; 0 for all.
        top_p: draw from the fewest tokens whose probabilities sum to this (nucleus, 1904.09751); 1 for all.
        min_p: drop tokens less likely than this times the likeliest (2407.01082); 0 for none.
        presence_penalty: taken off the logit of every token that was generated.
        frequency_penalty: the same, times how often it was.
        repetition_penalty: positive logits of tokens seen, in the prompt too, are divided by it, negative ones
            multiplied (CTRL, 1909.05858); 1 for none.
        logit_bias: (token id, what is added to its logit).
        seed: of the draws; the same request with the same seed draws the same. None for one of the engine's.
        stop: texts that end the request and are not part of it.
        stop_token_ids: tokens that do.
        ignore_eos: whether the model's own end tokens are drawn like others.
        min_tokens: no end token is drawn before so many.
        include_stop: whether the text keeps the stop text.
        logprobs: how many alternatives to report at each token, 0 for the chosen one alone; None for nothing.
        prompt_logprobs: the same for the prompt's tokens.
        constraint: what the text must match.
        skip_special_tokens: whether special tokens stand for no text.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    include_stop: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        _check(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _check(0 <= self.temperature <= 100, "temperature", self.temperature, "from 0 to 100")
        _check(self.top_k >= 0, "top_k", self.top_k, "at least 1, or 0 for all tokens")
        _check(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _check(0 <= self.min_p <= 1, "min_p", self.min_p, "from 0 to 1")
        for name in ("presence_penalty", "frequency_penalty"):
            _check(-2 <= getattr(self, name) <= 2, name, getattr(self, name), "from -2 to 2")
        penalty = self.repetition_penalty
        _check(0 < penalty <= 100, "repetition_penalty", penalty, "above 0 and at most 100")
        for token, bias in self.logit_bias:
            _check(token >= 0, "logit_bias", token, "token ids of at least 0")
            _check(-100 <= bias <= 100, "logit_bias", bias, "biases from -100 to 100")
        _check(
            0 <= self.min_tokens <= self.max_tokens,
            "min_tokens",
            self.min_tokens,
            "from 0 to max_tokens",
        )
        _check(all(self.stop), "stop", self.stop, "texts that are not empty")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            _check(value is None or 0 <= value <= MAX_LOGPROBS, name, value, f"0 to {MAX_LOGPROBS}")


@dataclasses.dataclass(frozen=True)
class Request:
    """One sequence to generate. Several samples of a prompt are several requests.

    Attributes:
        id: unique among those that run.
        prompt_ids: the prompt, at least one token.
        params: how to continue it.
        priority: lower runs earlier; equal ones in the order of arrival.
        cache_salt: prompts share cached prefixes only with those of the same salt.
    """

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams = SamplingParams()
    priority: int = 0
    cache_salt: str = ""

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise RequestError(
                "The prompt has no tokens; give at least one, such as the model's first token.",
                param="prompt",
            )
