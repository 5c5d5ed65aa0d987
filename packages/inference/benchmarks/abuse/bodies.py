"""What is asked of the server: requests of many kinds and lengths, and what is none.

drawn = generation(random.Random(0))     # to be answered, exactly
wrong = malformed(random.Random(0))      # to be refused
"""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PREFIX = list(range(1000, 1064))
PERSON = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "name": {"type": "string", "maxLength": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
# Ways of sampling, and whether the number of tokens is then known.
WAYS: tuple[tuple[dict[str, Any], bool], ...] = (
    ({"temperature": 0}, True),
    ({"temperature": 0.8, "seed": 7}, True),
    ({"temperature": 1, "top_p": 0.9, "top_k": 50, "min_p": 0.01}, True),
    ({"frequency_penalty": 0.5, "presence_penalty": 0.2, "repetition_penalty": 1.1}, True),
    ({"temperature": 0, "logprobs": 5}, True),
    ({"logit_bias": {"260": 2, "11": -100}, "min_tokens": 1}, True),
    ({"temperature": 0.9, "n": 3}, True),
    ({"stop": ["e", "\n"], "stop_token_ids": [30]}, False),
    ({"guided_regex": "[0-9]{1,8}(-[a-f]{4})?"}, False),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": PERSON}}}, False),
)


@dataclasses.dataclass(frozen=True)
class Generation:
    """A request.

    Attributes:
        path: where to.
        body: JSON.
        num_tokens: that must come; None if that depends.
        most_tokens: that may come.
    """

    path: str
    body: dict[str, Any]
    num_tokens: int | None
    most_tokens: int


def generation(draw: random.Random) -> Generation:
    """Draws a request: short and long, alone and with a shared prefix, whole and streamed."""
    if draw.random() < 0.06:
        return _scoring(draw)
    way, is_exact = draw.choice(WAYS)
    is_chat = draw.random() < 0.3
    num_tokens = _length(draw, 3.2, 160)
    body = {**way, "max_tokens": num_tokens, "ignore_eos": is_exact}
    if draw.random() < 0.6:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if is_chat:
        if "logprobs" in way:
            body |= {"logprobs": True, "top_logprobs": 5}
        body["messages"] = [{"role": "user", "content": _words(draw, _length(draw, 3, 200))}]
    elif draw.random() < 0.5:
        body["prompt"] = _words(draw, _length(draw, 4, 400))
    else:
        prefix = PREFIX if draw.random() < 0.5 else []
        body["prompt"] = prefix + [draw.randrange(3, 49_000) for _ in range(_length(draw, 4, 600))]
    most = num_tokens * body.get("n", 1)
    return Generation(CHAT if is_chat else COMPLETIONS, body, most if is_exact else None, most)


def _scoring(draw: random.Random) -> Generation:
    """Draws a prompt to be scored."""
    body = {"prompt": _words(draw, _length(draw, 4, 300)), "max_tokens": 0, "echo": True}
    return Generation(COMPLETIONS, body | {"logprobs": 1}, 0, 0)


def malformed(draw: random.Random) -> tuple[str, bytes, int | None]:
    """Draws a body that must be refused: (its kind, the body, what its length is said to be)."""
    kind = draw.choice(("huge", "deep", "types", "utf8", "json", "truncated", "bytes", "values"))
    return kind, *_made(kind, draw)


def _made(kind: str, draw: random.Random) -> tuple[bytes, int | None]:
    match kind:
        case "huge":
            return b'{"prompt": "' + b"a" * (9 << 20) + b'"}', None
        case "deep":
            return b'{"prompt": "a", "x": ' + b"[" * draw.randrange(65, 100_000), None
        case "types":
            field = draw.choice(("max_tokens", "prompt", "stop", "logit_bias", "n", "stream"))
            body = {"prompt": "a"} | {field: draw.choice(([{}], {"a": [1]}, [[[]]], 1.5))}
            return json.dumps(body).encode(), None
        case "utf8":
            return b'{"prompt": "' + draw.randbytes(20) + b'\xff"}', None
        case "json":
            text = json.dumps({"prompt": "a b c", "max_tokens": 3, "stop": ["x"]}).encode()
            return text[: draw.randrange(1, len(text))], None
        case "truncated":
            return b'{"prompt": "never ends', 5000
        case "bytes":
            return draw.randbytes(draw.randrange(1, 4000)), None
        case _:
            wrong = draw.choice(
                ({"temperature": -1}, {"top_p": 3}, {"n": 10**6}, {"max_tokens": 10**9})
            )
            return json.dumps({"prompt": "a"} | wrong).encode(), None


def _length(draw: random.Random, log_mean: float, most: int) -> int:
    return min(max(1, round(draw.lognormvariate(log_mean, 0.9))), most)


def _words(draw: random.Random, count: int) -> str:
    return " ".join(
        draw.choices(("the", "old", "house", "stood", "near", "a", "river", "and"), k=count)
    )
