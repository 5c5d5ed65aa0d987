"""The bodies of requests, field by field.

    body = read(CompletionBody, await service.json_body(http), limits)

What OpenAI's interface has, and of vLLM's additions those that clients send. Fields that would change the
result, and that are not there, are declared so that they can be refused; others are ignored.
"""

# A default that is made by a call is how a field says its kind.
from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from trellax.inference.requests import MAX_LOGPROBS
from trellax.inference.server.fields import (
    AsGiven,
    Boolean,
    Choice,
    Integer,
    ListOf,
    Mapping,
    NotOffered,
    Number,
    OneOf,
    Record,
    Text,
    optional,
    required,
)

DEFAULT_MAX_TOKENS = 16
"""Of completions, as in OpenAI's interface."""

_TOKEN = Integer(at_least=0, at_most=2**31 - 1)
_TOKENS = ListOf(_TOKEN, at_least=1)
_PROMPT = AsGiven(
    OneOf(
        (
            Text(min_length=1),
            _TOKENS,
            ListOf(Text(min_length=1), at_least=1, at_most="prompts"),
            ListOf(_TOKENS, at_least=1, at_most="prompts"),
        ),
        "a string, a list of token ids, or a list of these",
    ),
    is_checked=False,  # The prompt builder does.
)
_STOP = OneOf(
    (Text(min_length=1), ListOf(Text(min_length=1), at_most="stops")),
    "a string or a list of strings, none of them empty",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a stream is reported."""

    include_usage: bool = optional(Boolean(), False, "Whether a last chunk has the usage.")
    continuous_usage_stats: bool = optional(
        Boolean(), False, "Whether every chunk has it, with include_usage."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonSchemaFormat:
    """What `response_format.json_schema` holds."""

    name: str = optional(Text(), "", "A name for the schema.")
    schema: dict[str, Any] = optional(Mapping(), None, "The JSON schema.")
    strict: bool = optional(Boolean(), True, "Always so.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResponseFormat:
    """What the text must be."""

    type: str = required(Choice(("text", "json_object", "json_schema")), "Text, or JSON.")
    json_schema: JsonSchemaFormat | None = optional(
        Record(JsonSchemaFormat), None, "For json_schema."
    )


_SCHEMA = OneOf((Mapping(), Text(min_length=1)), "a JSON schema, as an object or a string")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StructuredOutputs:
    """What the text must match: exactly one of these."""

    json: Any = optional(_SCHEMA, None, "A JSON schema.")
    regex: str | None = optional(Text(min_length=1), None, "A regular expression.")
    choice: tuple[str, ...] | None = optional(
        ListOf(Text(min_length=1), at_least=1), None, "One of these texts."
    )
    grammar: str | None = optional(Text(min_length=1), None, "A Lark grammar.")
    json_object: bool = optional(Boolean(), False, "Any JSON object.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationBody:
    """What completions and chat completions share."""

    model: str | None = optional(Text(), None, "The served model's name.")
    n: int = optional(Integer(at_least=1, at_most="samples"), 1, "Samples of each prompt.")
    stream: bool = optional(Boolean(), False, "Whether to send tokens as they are drawn.")
    stream_options: StreamOptions = optional(
        Record(StreamOptions), StreamOptions(), "How a stream is reported."
    )
    temperature: float = optional(
        Number(at_least=0, at_most=100), 1.0, "Logits are divided by it; 0: the likeliest token."
    )
    top_p: float = optional(
        Number(above=0, at_most=1), 1.0, "Draw from the fewest tokens of this probability."
    )
    top_k: int = optional(
        Integer(at_least=-1, at_most=2**31 - 1), 0, "Draw from so many tokens; 0 or -1: all."
    )
    min_p: float = optional(
        Number(at_least=0, at_most=1), 0.0, "Drop tokens less likely than this × the likeliest."
    )
    presence_penalty: float = optional(
        Number(at_least=-2, at_most=2), 0.0, "Taken off the logits of tokens that were generated."
    )
    frequency_penalty: float = optional(
        Number(at_least=-2, at_most=2), 0.0, "The same, times how often they were."
    )
    repetition_penalty: float = optional(
        Number(above=0, at_most=100), 1.0, "Divides positive logits of all tokens seen."
    )
    logit_bias: dict[str, float] = optional(
        Mapping(
            Number(at_least=-100, at_most=100),
            at_most="logit_bias",
            key_pattern="^[0-9]{1,9}$",
        ),
        {},
        "Token id → what is added to its logit.",
    )
    seed: int | None = optional(Integer(), None, "Of the draws; sample i has seed + i.")
    stop: Any = optional(_STOP, (), "Texts that end the completion and are not part of it.")
    stop_token_ids: tuple[int, ...] = optional(
        ListOf(_TOKEN, at_most="stops"), (), "Tokens that end it."
    )
    ignore_eos: bool = optional(Boolean(), False, "Whether end tokens are drawn like others.")
    min_tokens: int = optional(Integer(at_least=0), 0, "No end token is drawn before so many.")
    include_stop_str_in_output: bool = optional(
        Boolean(), False, "Whether the text keeps the stop text."
    )
    skip_special_tokens: bool = optional(
        Boolean(), True, "Whether special tokens stand for no text."
    )
    prompt_logprobs: int | None = optional(
        Integer(at_least=0, at_most=MAX_LOGPROBS), None, "Alternatives at the prompt's tokens."
    )
    return_token_ids: bool = optional(Boolean(), False, "Whether token ids come with the text.")
    priority: int = optional(
        Integer(at_least=-(2**31), at_most=2**31 - 1), 0, "Lower runs earlier."
    )
    request_id: str | None = optional(
        Text(min_length=1, max_length=128), None, "Becomes part of the answer's id."
    )
    cache_salt: str = optional(
        Text(max_length=256), "", "Cached prefixes are shared among requests of the same."
    )
    response_format: ResponseFormat | None = optional(
        Record(ResponseFormat), None, "What the text must be."
    )
    structured_outputs: StructuredOutputs | None = optional(
        Record(StructuredOutputs), None, "What the text must match."
    )
    guided_json: Any = optional(_SCHEMA, None, "The same as structured_outputs.json.")
    guided_regex: str | None = optional(
        Text(min_length=1), None, "The same as structured_outputs.regex."
    )
    guided_choice: tuple[str, ...] | None = optional(
        ListOf(Text(min_length=1), at_least=1), None, "The same as structured_outputs.choice."
    )
    guided_grammar: str | None = optional(
        Text(min_length=1), None, "The same as structured_outputs.grammar."
    )
    use_beam_search: None = optional(NotOffered(), None, "Not offered.")
    user: str | None = optional(Text(), None, "Ignored.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletionBody(GenerationBody):
    """The body of `/v1/completions`."""

    prompt: Any = required(_PROMPT, "Text or token ids to continue, or several.")
    max_tokens: int | None = optional(
        Integer(at_least=0),
        None,
        f"The most tokens to draw; null: {DEFAULT_MAX_TOKENS}; 0, with echo: only score the prompt.",
    )
    echo: bool = optional(Boolean(), False, "Whether the prompt comes first.")
    logprobs: int | None = optional(
        Integer(at_least=0, at_most=MAX_LOGPROBS), None, "Alternatives at each token."
    )
    add_special_tokens: bool = optional(
        Boolean(), True, "Whether text gets the model's first token."
    )
    best_of: int | None = optional(Integer(at_least=1), None, "Must be n, if given.")
    suffix: None = optional(NotOffered(), None, "Not offered.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContentPart:
    """A part of a message's content."""

    type: str = required(Choice(("text",)), "The model reads text only.")
    text: str = required(Text(), "The text.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionCall:
    """What an assistant's message called."""

    name: str = required(Text(), "The function's name.")
    arguments: str = optional(Text(), "{}", "Its arguments, as JSON.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call in an assistant's message."""

    id: str = optional(Text(), "", "What the tool's answer refers to.")
    type: str = optional(Choice(("function",)), "function", "Only functions.")
    function: FunctionCall = required(Record(FunctionCall), "The call.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """A message of a conversation."""

    role: str = required(
        Choice(("system", "developer", "user", "assistant", "tool")), "Who speaks."
    )
    content: Any = optional(
        OneOf(
            (Text(), ListOf(Record(ContentPart), at_most="messages")),
            "a string or a list of parts",
        ),
        None,
        "What is said.",
    )
    name: str | None = optional(Text(), None, "The speaker's or tool's name.")
    tool_calls: tuple[ToolCall, ...] = optional(
        ListOf(Record(ToolCall), at_most="tools"), (), "What an assistant called."
    )
    tool_call_id: str | None = optional(Text(), None, "The call that a tool's message answers.")
    reasoning_content: str | None = optional(Text(), None, "What an assistant thought before.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Function:
    """A function that the model may call."""

    name: str = required(Text(min_length=1, max_length=64), "Its name.")
    description: str | None = optional(Text(), None, "What it does.")
    parameters: dict[str, Any] | None = optional(Mapping(), None, "A JSON schema of its arguments.")
    strict: bool | None = optional(Boolean(), None, "Ignored.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool that the model may call."""

    type: str = required(Choice(("function",)), "Only functions.")
    function: Function = required(Record(Function), "The function.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionName:
    """The name of one of the tools' functions."""

    name: str = required(Text(min_length=1), "The function's name.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedTool:
    """A tool that must be called."""

    type: str = required(Choice(("function",)), "Only functions.")
    function: FunctionName = required(Record(FunctionName), "Which.")


_MESSAGES = AsGiven(ListOf(Record(Message), at_least=1, at_most="messages"))
_TOOLS = AsGiven(ListOf(Record(Tool), at_most="tools"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversationFields:
    """What becomes a prompt by the model's chat template."""

    tools: Sequence[dict[str, Any]] = optional(_TOOLS, (), "What the model may call.")
    add_generation_prompt: bool = optional(
        Boolean(), True, "Whether the prompt ends where the assistant begins to speak."
    )
    continue_final_message: None = optional(NotOffered(), None, "Not offered.")
    chat_template: None = optional(NotOffered(), None, "Not offered.")
    chat_template_kwargs: dict[str, Any] = optional(
        Mapping(), {}, "Further variables of the chat template."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatBody(GenerationBody, ConversationFields):
    """The body of `/v1/chat/completions`."""

    messages: Sequence[dict[str, Any]] = required(_MESSAGES, "The conversation.")
    max_tokens: int | None = optional(
        Integer(at_least=1), None, "The most tokens to draw; null: what the model can hold."
    )
    max_completion_tokens: int | None = optional(
        Integer(at_least=1), None, "The newer name of max_tokens; it wins."
    )
    logprobs: bool = optional(Boolean(), False, "Whether log-probabilities are reported.")
    top_logprobs: int = optional(
        Integer(at_least=0, at_most=MAX_LOGPROBS), 0, "Alternatives at each token, with logprobs."
    )
    tool_choice: Any = optional(
        OneOf(
            (Choice(("none", "auto", "required")), Record(NamedTool)),
            '"none", "auto", "required" or a function by name',
        ),
        "auto",
        "Whether tools are shown, or one must be called.",
    )
    parallel_tool_calls: bool = optional(Boolean(), True, "Ignored.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizeBody(ConversationFields):
    """The body of `/tokenize`: a prompt or a conversation."""

    model: str | None = optional(Text(), None, "The served model's name.")
    prompt: str | None = optional(Text(), None, "Text to encode.")
    messages: Sequence[dict[str, Any]] | None = optional(
        _MESSAGES, None, "A conversation to encode."
    )
    add_special_tokens: bool = optional(
        Boolean(), True, "Whether a prompt gets the model's first token."
    )
    return_token_strs: bool = optional(Boolean(), False, "Whether each token's text is returned.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetokenizeBody:
    """The body of `/detokenize`."""

    model: str | None = optional(Text(), None, "The served model's name.")
    tokens: tuple[int, ...] = required(ListOf(_TOKEN), "Token ids.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingBody:
    """The body of `/v1/embeddings`."""

    model: str | None = optional(Text(), None, "The served model's name.")
    input: Any = required(_PROMPT, "Text or token ids, or several.")
    encoding_format: str = optional(
        Choice(("float", "base64")), "float", "base64: of little-endian float32."
    )
    dimensions: None = optional(NotOffered(), None, "Not offered.")
    user: str | None = optional(Text(), None, "Ignored.")
