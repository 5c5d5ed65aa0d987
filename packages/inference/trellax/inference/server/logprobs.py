"""Log-probabilities in the shapes that clients know: of completions, of chats, and of vLLM's `prompt_logprobs`.

shape = LogprobShapes(tokenizer)
shape.chat(output.logprobs)  # {"content": [{"token": " the", "logprob": -0.3, ...}]}
"""

from __future__ import annotations

import codecs
import functools
from collections.abc import Sequence
from typing import Any

from trellax.inference.requests import TokenLogprobs
from trellax.inference.text import Tokenizer

_LEAST = -9999.0
"""Stands for the logarithm of 0, which JSON cannot write."""


class TextOffsets:
    """Where in a text its tokens begin, as they come."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool):
        self._tokenizer = tokenizer
        self._skips_special = skip_special_tokens
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._offset = 0

    def next(self, token_id: int) -> int:
        """Returns the offset of the next token, in characters."""
        offset = self._offset
        is_text = token_id < self._tokenizer.vocab_size and not (
            self._skips_special and self._tokenizer.is_special(token_id)
        )
        if is_text:
            self._offset += len(self._decode(self._tokenizer.token_bytes(token_id)))
        return offset


class LogprobShapes:
    """Writes log-probabilities with the texts of tokens."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._text = functools.lru_cache(maxsize=1 << 16)(self._make_text)

    def completion(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[TokenLogprobs | None],
        offsets: TextOffsets,
    ) -> dict[str, Any]:
        """Returns what a completion's choice has; None stands where nothing precedes a token."""
        texts = [self._text(token) for token in token_ids]
        return {
            "text_offset": [offsets.next(token) for token in token_ids],
            "token_logprobs": [None if x is None else _finite(x.logprob) for x in logprobs],
            "tokens": texts,
            "top_logprobs": [
                None if x is None else self._top(text, x)
                for text, x in zip(texts, logprobs, strict=True)
            ],
        }

    def chat(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """Returns what a chat completion's choice has."""
        return {
            "content": [
                self._entry(x.token_id, x.logprob)
                | {"top_logprobs": [self._entry(*top) for top in x.top]}
                for x in logprobs
            ]
        }

    def prompt(self, logprobs: Sequence[TokenLogprobs | None]) -> list[dict[str, Any] | None]:
        """Returns vLLM's `prompt_logprobs`: at each token, by id, its own and the likeliest."""
        return [None if x is None else self._by_id(x) for x in logprobs]

    def token_text(self, token_id: int) -> str:
        """Returns a token's text, or its bytes where they are no text."""
        return self._text(token_id)

    def _by_id(self, logprobs: TokenLogprobs) -> dict[str, Any]:
        ranked = [(token, value, rank) for rank, (token, value) in enumerate(logprobs.top, start=1)]
        if logprobs.token_id not in dict(logprobs.top):
            ranked.append((logprobs.token_id, logprobs.logprob, logprobs.rank))
        return {
            str(token): {
                "logprob": _finite(value),
                "rank": rank,
                "decoded_token": self._text(token),
            }
            for token, value, rank in ranked
        }

    def _top(self, text: str, logprobs: TokenLogprobs) -> dict[str, float]:
        top: dict[str, float] = {}
        for token, value in logprobs.top:
            top.setdefault(self._text(token), _finite(value))  # The likeliest of equal texts.
        top.setdefault(text, _finite(logprobs.logprob))
        return top

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._text(token_id),
            "logprob": _finite(logprob),
            "bytes": list(self._bytes(token_id)),
        }

    def _make_text(self, token_id: int) -> str:
        data = self._bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _bytes(self, token_id: int) -> bytes:
        # A model may have more rows of logits than its tokenizer has tokens.
        known = token_id < self._tokenizer.vocab_size
        return self._tokenizer.token_bytes(token_id) if known else b""


def _finite(logprob: float) -> float:
    return max(_LEAST, logprob)
