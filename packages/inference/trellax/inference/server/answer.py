"""`Answer`: the shape of a response, whole or in chunks, that completions and chats fill in.

answer.chunk(sample, output)  # b'data: {"id":"cmpl-1",...}\\n\\n'
answer.whole()  # {"id": "cmpl-1", "choices": [...], "usage": {...}}
"""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from trellax.inference.requests import Output
from trellax.inference.server.bodies import GenerationBody
from trellax.inference.server.sample import Sample

encode = json.JSONEncoder(separators=(",", ":")).encode
"""ASCII only, so nothing that a client may take for the end of a line is in an event."""

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b"\n"
"""An empty line, which ends no event. Not a comment: `vllm bench serve` strips chunks, and reads what follows as part of it."""


@dataclasses.dataclass(frozen=True)
class Envelope:
    """What all chunks of an answer share.

    Attributes:
        id: of the answer.
        created: seconds since 1970.
        model: the served model's name.
        fingerprint: of what computed it.
    """

    id: str
    created: int
    model: str
    fingerprint: str

    def fields(self, kind: str) -> dict[str, Any]:
        """Returns the fields that come first; `kind` is the value of "object"."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def joined(outputs: Sequence[Output]) -> Output:
    """Returns all pieces of a sample as one."""
    first, last = outputs[0], outputs[-1]
    return dataclasses.replace(
        last,
        token_ids=tuple(token for output in outputs for token in output.token_ids),
        text="".join(output.text for output in outputs),
        logprobs=tuple(x for output in outputs for x in output.logprobs or ()),
        prompt_logprobs=first.prompt_logprobs,
    )


class Answer(abc.ABC):
    """Makes an answer of samples' pieces."""

    def __init__(
        self, envelope: Envelope, body: GenerationBody, samples: Sequence[Sample], *, kind: str
    ):
        """
        Args:
            envelope: what all chunks share.
            body: what was asked for.
            samples: all of them, in order.
            kind: of chunks, the value of their "object".
        """
        options = body.stream_options
        self._envelope = envelope
        self._body = body
        self._samples = samples
        self._usage_in_all = options.include_usage and options.continuous_usage_stats
        head = encode(envelope.fields(kind))
        self._head = f'data: {head[:-1]},"choices":['
        self._tail = '],"usage":null}\n\n' if options.include_usage else "]}\n\n"

    @abc.abstractmethod
    def chunk(self, sample: Sample, output: Output) -> bytes:
        """Returns the events of a piece."""

    @abc.abstractmethod
    def whole(self, outputs: Sequence[Output]) -> dict[str, Any]:
        """Returns the answer; `outputs` has all of each sample, in order."""

    def last_chunks(self) -> bytes:
        """Returns what follows the last piece."""
        if not self._body.stream_options.include_usage:
            return DONE
        return f'{self._head}],"usage":{encode(self.usage())}}}\n\n'.encode() + DONE

    def event(self, choice: str) -> bytes:
        """Returns a chunk with one choice, which is JSON already."""
        if self._usage_in_all:
            return f'{self._head}{choice}],"usage":{encode(self.usage())}}}\n\n'.encode()
        return f"{self._head}{choice}{self._tail}".encode()

    def usage(self) -> dict[str, Any]:
        """Returns how many tokens there were; a prompt of several samples counts once."""
        firsts = self._samples[:: self._body.n]
        prompt_tokens = sum(len(sample.prompt.ids) for sample in firsts)
        completion_tokens = sum(sample.num_tokens for sample in self._samples)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": sum(sample.num_cached_tokens for sample in firsts)
            },
        }
