"""What clients ask for and what they get: plain values that every part of serving shares."""

from trellax.inference.requests.errors import QueueFullError
from trellax.inference.requests.output import FinishReason, Output, TokenLogprobs
from trellax.inference.requests.request import (
    MAX_LOGPROBS,
    Constraint,
    Request,
    RequestError,
    SamplingParams,
)

__all__ = [
    "MAX_LOGPROBS",
    "Constraint",
    "FinishReason",
    "Output",
    "QueueFullError",
    "Request",
    "RequestError",
    "SamplingParams",
    "TokenLogprobs",
]
