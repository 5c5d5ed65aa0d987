"""From a body's fields to `SamplingParams`.

params = sampling_params(body, max_tokens=16, logprobs=None, prompt_logprobs=None)
of_sample(params, 3)  # Of the fourth sample: its own seed.
"""

from __future__ import annotations

import dataclasses
import json

from trellax.inference.requests import Constraint, RequestError, SamplingParams
from trellax.inference.server.bodies import GenerationBody, ResponseFormat, StructuredOutputs


def sampling_params(
    body: GenerationBody,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    constraint: Constraint | None,
    vocab_size: int,
) -> SamplingParams:
    """Returns how the first sample is drawn.

    Args:
        body: what was asked for.
        max_tokens: the most tokens to draw.
        logprobs: alternatives at each token, None for no log-probabilities.
        prompt_logprobs: the same for the prompt's tokens.
        constraint: what the text must match.
        vocab_size: token ids are less than this.

    Raises:
        RequestError: if a value is out of range.
    """
    bias = tuple((int(token), value) for token, value in body.logit_bias.items())
    _check_tokens((token for token, _ in bias), vocab_size, "logit_bias")
    _check_tokens(body.stop_token_ids, vocab_size, "stop_token_ids")
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_k=max(body.top_k, 0),
        top_p=body.top_p,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        logit_bias=bias,
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else body.stop,
        stop_token_ids=body.stop_token_ids,
        ignore_eos=body.ignore_eos,
        min_tokens=body.min_tokens,
        include_stop=body.include_stop_str_in_output,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        constraint=constraint,
        skip_special_tokens=body.skip_special_tokens,
    )


def of_sample(params: SamplingParams, sample: int) -> SamplingParams:
    """Returns how one of the samples is drawn: like the first, by a seed of its own."""
    if params.seed is None or sample == 0:
        return params
    seed = (params.seed + sample + 2**63) % 2**64 - 2**63
    return dataclasses.replace(params, seed=seed)


def constraint_of(body: GenerationBody) -> Constraint | None:
    """Returns what the text must match, by whichever field says so.

    Raises:
        RequestError: if several do.
    """
    guided = StructuredOutputs(
        json=body.guided_json,
        regex=body.guided_regex,
        choice=body.guided_choice,
        grammar=body.guided_grammar,
    )
    found = [
        *_of_outputs(guided, "guided_"),
        *_of_outputs(body.structured_outputs or StructuredOutputs(), "structured_outputs."),
        *_of_format(body.response_format),
    ]
    if body.structured_outputs is not None and not any(
        name.startswith("structured_outputs.") for name, _ in found
    ):
        raise RequestError(
            "structured_outputs has none of json, regex, choice, grammar and json_object.",
            param="structured_outputs",
        )
    if len(found) > 1:
        names = [name for name, _ in found]
        raise RequestError(
            f"{' and '.join(names)} each say what the text must match; give one.", param=names[1]
        )
    return found[0][1] if found else None


def _of_outputs(outputs: StructuredOutputs, prefix: str) -> list[tuple[str, Constraint]]:
    texts = {
        "json": _json_text(outputs.json, f"{prefix}json"),
        "regex": outputs.regex,
        "choice": json.dumps(outputs.choice) if outputs.choice is not None else None,
        "grammar": outputs.grammar,
    }
    found = [
        (prefix + name, Constraint("json_schema" if name == "json" else name, text))  # type: ignore[arg-type]
        for name, text in texts.items()
        if text is not None
    ]
    if outputs.json_object:
        found.append((prefix + "json_object", Constraint("json_object")))
    return found


def _of_format(response_format: ResponseFormat | None) -> list[tuple[str, Constraint]]:
    if response_format is None or response_format.type == "text":
        return []
    if response_format.type == "json_object":
        return [("response_format", Constraint("json_object"))]
    if response_format.json_schema is None or response_format.json_schema.schema is None:
        raise RequestError(
            "response_format.json_schema.schema is missing; it holds the JSON schema.",
            param="response_format.json_schema",
        )
    schema = json.dumps(response_format.json_schema.schema)
    return [("response_format", Constraint("json_schema", schema))]


def _json_text(schema: object, name: str) -> str | None:
    if schema is None or not isinstance(schema, str):
        return None if schema is None else json.dumps(schema)
    try:
        value = json.loads(schema)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError(f"{name} is a string that holds no JSON schema.", param=name)
    return schema


def _check_tokens(tokens: object, vocab_size: int, param: str) -> None:
    for token in tokens:  # type: ignore[attr-defined]
        if token >= vocab_size:
            raise RequestError(
                f"{param} names token {token}; the model's tokens are 0 to {vocab_size - 1}.",
                param=param,
            )
