"""`ChatAnswer`: the responses of `/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trellax.inference.requests import Output
from trellax.inference.server.answer import Answer, Envelope, encode
from trellax.inference.server.bodies import ChatBody
from trellax.inference.server.logprobs import LogprobShapes
from trellax.inference.server.sample import Sample
from trellax.inference.server.tool_calls import CallWriter, ForcedCall


class ChatAnswer(Answer):
    """Choices have a `message`, or a `delta` of one, and log-probabilities by token."""

    def __init__(
        self,
        envelope: Envelope,
        body: ChatBody,
        samples: Sequence[Sample],
        *,
        shapes: LogprobShapes,
        forced_call: ForcedCall | None,
    ):
        super().__init__(envelope, body, samples, kind="chat.completion.chunk")
        self._shapes = shapes
        self._logprobs = body.logprobs
        self._is_plain = not (body.logprobs or body.return_token_ids or forced_call)
        self._begun = [False] * len(samples)
        self._calls = [CallWriter(forced_call) for _ in samples] if forced_call else None

    def chunk(self, sample: Sample, output: Output) -> bytes:
        begun = self._begun[sample.index]
        if begun and self._is_plain and output.finish_reason is None:
            return self.event(
                f'{{"index":{sample.index},"delta":{{"content":{encode(output.text)}}},'
                '"logprobs":null,"finish_reason":null}'
            )
        choice = self._choice(sample, output)
        choice["delta"] = self._delta(sample, output)
        if begun:
            return self.event(encode(choice))
        self._begun[sample.index] = True
        return self._role_chunk(sample) + self.event(encode(choice))

    def whole(self, outputs: Sequence[Output]) -> dict[str, Any]:
        choices = []
        for sample, output in zip(self._samples, outputs, strict=True):
            choice = self._choice(sample, output)
            choice["message"] = self._message(sample, output)
            choices.append(choice)
        fields = self._envelope.fields("chat.completion")
        fields |= {"choices": choices, "usage": self.usage()}
        first = outputs[0]
        if self._body.prompt_logprobs is not None and first.prompt_logprobs is not None:
            fields["prompt_logprobs"] = self._shapes.prompt(first.prompt_logprobs)
        if self._body.return_token_ids:
            fields["prompt_token_ids"] = self._samples[0].prompt.ids
        return fields

    def _role_chunk(self, sample: Sample) -> bytes:
        choice: dict[str, Any] = {
            "index": sample.index,
            "delta": {"role": "assistant", "content": None if self._calls else ""},
            "logprobs": None,
            "finish_reason": None,
        }
        if self._body.return_token_ids:
            choice["prompt_token_ids"] = sample.prompt.ids
        return self.event(encode(choice))

    def _choice(self, sample: Sample, output: Output) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": sample.index,
            "logprobs": self._shapes.chat(output.logprobs or ()) if self._logprobs else None,
            "finish_reason": output.finish_reason,
        }
        if output.finish_reason is not None:
            choice["stop_reason"] = output.stop_reason
            if self._calls and output.finish_reason == "stop":
                choice["finish_reason"] = self._calls[sample.index].finish_reason
        if self._body.return_token_ids:
            choice["token_ids"] = output.token_ids
        return choice

    def _delta(self, sample: Sample, output: Output) -> dict[str, Any]:
        if self._calls is None:
            return {"content": output.text}
        writer = self._calls[sample.index]
        return writer.delta(output.text, is_last=output.finish_reason is not None)

    def _message(self, sample: Sample, output: Output) -> dict[str, Any]:
        if self._calls is None:
            return {"role": "assistant", "content": output.text}
        calls = self._calls[sample.index].calls(output.text)
        return {"role": "assistant", "content": None, "tool_calls": calls}
