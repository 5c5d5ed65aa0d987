"""`CompletionAnswer`: the responses of `/v1/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trellax.inference.requests import Output, TokenLogprobs
from trellax.inference.server.answer import Answer, Envelope, encode
from trellax.inference.server.bodies import CompletionBody
from trellax.inference.server.logprobs import LogprobShapes, TextOffsets
from trellax.inference.server.sample import Sample
from trellax.inference.text import Tokenizer


class CompletionAnswer(Answer):
    """Choices have `text`, and log-probabilities as parallel lists."""

    def __init__(
        self,
        envelope: Envelope,
        body: CompletionBody,
        samples: Sequence[Sample],
        *,
        tokenizer: Tokenizer,
        shapes: LogprobShapes,
    ):
        super().__init__(envelope, body, samples, kind="text_completion")
        self._echo = body.echo
        self._logprobs = body.logprobs is not None
        self._tokenizer = tokenizer
        self._shapes = shapes
        self._is_plain = not (self._logprobs or body.return_token_ids)
        self._offsets = [
            TextOffsets(tokenizer, skip_special_tokens=body.skip_special_tokens) for _ in samples
        ]
        self._begun = [False] * len(samples)

    def chunk(self, sample: Sample, output: Output) -> bytes:
        begun = self._begun[sample.index]
        if begun and self._is_plain and output.finish_reason is None:
            return self.event(
                f'{{"index":{sample.index},"text":{encode(output.text)},'
                '"logprobs":null,"finish_reason":null}'
            )
        self._begun[sample.index] = True
        return self.event(encode(self._choice(sample, output, is_first=not begun)))

    def whole(self, outputs: Sequence[Output]) -> dict[str, Any]:
        choices = []
        for sample, output in zip(self._samples, outputs, strict=True):
            choice = self._choice(sample, output, is_first=True)
            if self._body.prompt_logprobs is not None and output.prompt_logprobs is not None:
                choice["prompt_logprobs"] = self._shapes.prompt(output.prompt_logprobs)
            choices.append(choice)
        fields = self._envelope.fields("text_completion")
        return fields | {"choices": choices, "usage": self.usage()}

    def _choice(self, sample: Sample, output: Output, *, is_first: bool) -> dict[str, Any]:
        echoes = self._echo and is_first
        choice: dict[str, Any] = {
            "index": sample.index,
            "text": self._prompt_text(sample) + output.text if echoes else output.text,
            "logprobs": self._logprobs_of(sample, output, echoes=echoes),
            "finish_reason": output.finish_reason,
        }
        if output.finish_reason is not None:
            choice["stop_reason"] = output.stop_reason
        if self._body.return_token_ids:
            choice["token_ids"] = output.token_ids
            if is_first:
                choice["prompt_token_ids"] = sample.prompt.ids
        return choice

    def _prompt_text(self, sample: Sample) -> str:
        if sample.prompt.text is not None:
            return sample.prompt.text
        return self._tokenizer.decode(
            sample.prompt.ids, skip_special_tokens=self._body.skip_special_tokens
        )

    def _logprobs_of(
        self, sample: Sample, output: Output, *, echoes: bool
    ) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        ids, logprobs = output.token_ids, list[TokenLogprobs | None](output.logprobs or ())
        if echoes:
            ids = (*sample.prompt.ids, *ids)
            logprobs = [*(output.prompt_logprobs or ()), *logprobs]
        return self._shapes.completion(ids, logprobs, self._offsets[sample.index])
