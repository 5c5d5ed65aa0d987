"""JSON schemas of answers. Tests hold real answers against them."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _object(required: Schema, optional: Schema | None = None) -> Schema:
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _const(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


_STRING: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_COUNTS = _list(_COUNT)
_FINISH = _nullable(_const("stop", "length", "tool_calls"))
_STOP_REASON = {"anyOf": [_STRING, _COUNT, {"type": "null"}]}
_PROMPT_LOGPROBS = _list(
    _nullable(
        {
            "type": "object",
            "additionalProperties": _object(
                {"logprob": _NUMBER, "rank": _COUNT, "decoded_token": _STRING}
            ),
        }
    )
)

ERROR = _object(
    {
        "error": _object(
            {
                "message": _STRING,
                "type": _STRING,
                "param": _nullable(_STRING),
                "code": _nullable(_STRING),
            }
        )
    }
)
EVENT = _object({"data": _STRING}) | {
    "description": "One event of the stream: data is a chunk in JSON, or [DONE] at its end."
}
"""OpenAPI before 3.2 has the schema of a stream stand for each of its events."""
USAGE = _object(
    {
        "prompt_tokens": _COUNT,
        "completion_tokens": _COUNT,
        "total_tokens": _COUNT,
        "prompt_tokens_details": _object({"cached_tokens": _COUNT}),
    }
)


def _answer(kind: str, choice: Schema, optional: Schema | None = None) -> Schema:
    return _object(
        {
            "id": _STRING,
            "object": _const(kind),
            "created": _COUNT,
            "model": _STRING,
            "system_fingerprint": _STRING,
            "choices": _list(choice),
            "usage": USAGE,
        },
        optional,
    )


COMPLETION = _answer(
    "text_completion",
    _object(
        {
            "index": _COUNT,
            "text": _STRING,
            "logprobs": _nullable(
                _object(
                    {
                        "text_offset": _COUNTS,
                        "token_logprobs": _list(_nullable(_NUMBER)),
                        "tokens": _list(_STRING),
                        "top_logprobs": _list(
                            _nullable({"type": "object", "additionalProperties": _NUMBER})
                        ),
                    }
                )
            ),
            "finish_reason": _FINISH,
        },
        {
            "stop_reason": _STOP_REASON,
            "token_ids": _COUNTS,
            "prompt_token_ids": _COUNTS,
            "prompt_logprobs": _PROMPT_LOGPROBS,
        },
    ),
)
_TOKEN = {"token": _STRING, "logprob": _NUMBER, "bytes": _COUNTS}
CHAT_COMPLETION = _answer(
    "chat.completion",
    _object(
        {
            "index": _COUNT,
            "message": _object(
                {"role": _const("assistant"), "content": _nullable(_STRING)},
                {
                    "tool_calls": _list(
                        _object(
                            {
                                "id": _STRING,
                                "type": _const("function"),
                                "function": _object({"name": _STRING, "arguments": _STRING}),
                            }
                        )
                    )
                },
            ),
            "logprobs": _nullable(
                _object(
                    {"content": _list(_object({**_TOKEN, "top_logprobs": _list(_object(_TOKEN))}))}
                )
            ),
            "finish_reason": _FINISH,
        },
        {"stop_reason": _STOP_REASON, "token_ids": _COUNTS},
    ),
    {"prompt_logprobs": _PROMPT_LOGPROBS, "prompt_token_ids": _COUNTS},
)
EMBEDDINGS = _object(
    {
        "object": _const("list"),
        "model": _STRING,
        "data": _list(
            _object(
                {
                    "object": _const("embedding"),
                    "index": _COUNT,
                    "embedding": {"anyOf": [_list(_NUMBER), _STRING]},
                }
            )
        ),
        "usage": _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT}),
    }
)
MODEL = _object(
    {
        "id": _STRING,
        "object": _const("model"),
        "created": _COUNT,
        "owned_by": _STRING,
        "root": _STRING,
        "max_model_len": _COUNT,
    }
)
MODELS = _object({"object": _const("list"), "data": _list(MODEL)})
TOKENS = _object(
    {
        "count": _COUNT,
        "max_model_len": _COUNT,
        "tokens": _COUNTS,
        "token_strs": _nullable(_list(_STRING)),
    }
)
PROMPT = _object({"prompt": _STRING})
HEALTH = _object({"status": _const("ok")})
LOAD = _object({"server_load": _COUNT})
VERSION = _object({"version": _STRING})
STATS = _object(
    {
        "model": _STRING,
        "max_length": _COUNT,
        "can_chat": {"type": "boolean"},
        "time": _NUMBER,
        "is_ready": {"type": "boolean"},
        "num_requests_running": _COUNT,
        "num_requests_waiting": _COUNT,
        "kv_cache_usage_perc": _NUMBER,
        "prefix_cache_queries": _COUNT,
        "prefix_cache_hits": _COUNT,
        "num_preemptions": _COUNT,
        "prompt_tokens": _COUNT,
        "generation_tokens": _COUNT,
        "median_time_to_first_token_seconds": _nullable(_NUMBER),
    }
)
