"""`POST /v1/completions` and `POST /v1/chat/completions`: from a body to a `GenerationResponse`."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Sequence

from starlette.requests import Request as HttpRequest

from trellax.inference.requests import Request, RequestError, SamplingParams
from trellax.inference.server.answer import Envelope
from trellax.inference.server.bodies import (
    DEFAULT_MAX_TOKENS,
    ChatBody,
    CompletionBody,
    GenerationBody,
)
from trellax.inference.server.chat_answer import ChatAnswer
from trellax.inference.server.completion_answer import CompletionAnswer
from trellax.inference.server.fields import read
from trellax.inference.server.generation import GenerationResponse, Job
from trellax.inference.server.parameters import constraint_of, of_sample, sampling_params
from trellax.inference.server.prompts import Prompt
from trellax.inference.server.sample import Sample
from trellax.inference.server.service import Service
from trellax.inference.server.tool_calls import forced_call


async def completions(service: Service, http: HttpRequest) -> GenerationResponse:
    """Answers `POST /v1/completions`."""
    start_s = time.perf_counter()
    limits = service.settings.limits
    body = read(CompletionBody, await service.json_body(http), limits)
    _check(service, body)
    scores_only = _check_completion(body)
    prompts = await service.prompts.completion(
        body.prompt, add_special_tokens=body.add_special_tokens
    )
    if len(prompts) * body.n > limits.choices:
        raise RequestError(
            f"{len(prompts)} prompts with n={body.n} are {len(prompts) * body.n} choices; "
            f"at most {limits.choices}.",
            param="n",
        )
    shared = sampling_params(
        body,
        max_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else max(body.max_tokens, 1),
        logprobs=body.logprobs,
        prompt_logprobs=_most(body.prompt_logprobs, body.logprobs if body.echo else None),
        constraint=constraint_of(body),
        vocab_size=service.engine.model.vocab_size,
    )
    params = [_fitted(service, body, shared, prompt) for prompt in prompts]
    job = _job(service, body, prompts, params, start_s, scores_only=scores_only)
    answer = CompletionAnswer(
        _envelope(service, http, body, "cmpl"),
        body,
        job.samples,
        tokenizer=service.engine.tokenizer,
        shapes=service.logprob_shapes,
    )
    return _response(service, http, body, job, answer)


async def chat_completions(service: Service, http: HttpRequest) -> GenerationResponse:
    """Answers `POST /v1/chat/completions`."""
    start_s = time.perf_counter()
    limits = service.settings.limits
    body = read(ChatBody, await service.json_body(http), limits)
    _check(service, body)
    if body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs needs logprobs: true.", param="top_logprobs")
    forced = forced_call(body.tool_choice, body.tools)
    constraint = constraint_of(body)
    if forced is not None and constraint is not None:
        raise RequestError(
            "tool_choice demands a call and another field says what the text must match; give one.",
            param="tool_choice",
        )
    prompt = await service.prompts.chat(body.messages, body, show_tools=body.tool_choice != "none")
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    params = sampling_params(
        body,
        max_tokens=service.room_for(len(prompt.ids), getattr(body, name), param=name),
        logprobs=body.top_logprobs if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
        constraint=forced.constraint if forced else constraint,
        vocab_size=service.engine.model.vocab_size,
    )
    job = _job(service, body, [prompt], [params], start_s)
    answer = ChatAnswer(
        _envelope(service, http, body, "chatcmpl"),
        body,
        job.samples,
        shapes=service.logprob_shapes,
        forced_call=forced,
    )
    return _response(service, http, body, job, answer)


def _check(service: Service, body: GenerationBody) -> None:
    service.check_ready()
    service.check_model(body.model)
    if body.stream and body.prompt_logprobs is not None:
        raise RequestError(
            "prompt_logprobs come with a whole answer only; leave out stream.",
            param="prompt_logprobs",
        )


def _check_completion(body: CompletionBody) -> bool:
    """Returns whether only the prompt is scored; raises RequestError for what is not offered."""
    if body.best_of not in (None, body.n):
        raise RequestError(f"best_of is {body.best_of}; only n itself is offered.", param="best_of")
    if body.max_tokens != 0:
        return False
    if not body.echo and body.prompt_logprobs is None:
        raise RequestError(
            "max_tokens is 0; without echo it must be at least 1.", param="max_tokens"
        )
    return True


def _fitted(
    service: Service, body: CompletionBody, params: SamplingParams, prompt: Prompt
) -> SamplingParams:
    """Returns parameters with as many tokens as were asked for, or as there is room for."""
    num_tokens = len(prompt.ids)
    if body.max_tokens is not None:
        service.room_for(num_tokens, params.max_tokens, param="max_tokens")
        return params
    room = service.room_for(num_tokens, None, param="max_tokens")
    return dataclasses.replace(params, max_tokens=min(params.max_tokens, room))


def _most(*counts: int | None) -> int | None:
    return max((count for count in counts if count is not None), default=None)


def _job(
    service: Service,
    body: GenerationBody,
    prompts: Sequence[Prompt],
    params: Sequence[SamplingParams],
    start_s: float,
    *,
    scores_only: bool = False,
) -> Job:
    job_id = uuid.uuid4().hex  # Ids of clients need not be unique.
    requests: list[Request] = []
    samples: list[Sample] = []
    for prompt, shared in zip(prompts, params, strict=True):
        for sample in range(body.n):
            index = len(requests)
            requests.append(
                Request(
                    id=f"{job_id}-{index}",
                    prompt_ids=prompt.ids,
                    params=of_sample(shared, sample),
                    priority=body.priority,
                    cache_salt=body.cache_salt,
                )
            )
            samples.append(Sample(index, prompt, start_s=start_s))
        service.engine.check(requests[-1])
    return Job(tuple(requests), tuple(samples), scores_only)


def _envelope(service: Service, http: HttpRequest, body: GenerationBody, prefix: str) -> Envelope:
    given = body.request_id or http.state.request_id
    return Envelope(
        id=f"{prefix}-{given}",
        created=int(time.time()),
        model=service.engine.model.id,
        fingerprint=service.fingerprint,
    )


def _response(
    service: Service,
    http: HttpRequest,
    body: GenerationBody,
    job: Job,
    answer: CompletionAnswer | ChatAnswer,
) -> GenerationResponse:
    return GenerationResponse(service, job, answer, stream=body.stream, key=http.state.client_key)
