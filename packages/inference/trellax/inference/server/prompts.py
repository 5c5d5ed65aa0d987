"""From text, token ids or a conversation to the tokens of a prompt.

prompts = Prompts(engine, limits)
await prompts.completion(body.prompt)  # [Prompt(ids=(4592,), text="Once")]
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from trellax.inference.requests import RequestError
from trellax.inference.server.bodies import ConversationFields
from trellax.inference.server.interface import Engine
from trellax.inference.server.settings import Limits
from trellax.inference.text import PromptBuilder

_T = TypeVar("_T")
_LONG = 4096
"""Characters beyond which a prompt is made in a thread, so that streams go on meanwhile."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What is continued.

    Attributes:
        ids: its tokens.
        text: what it was given as; None if it was not as text.
    """

    ids: tuple[int, ...]
    text: str | None = None


class Prompts:
    """Makes the prompts of one model."""

    def __init__(self, engine: Engine, limits: Limits):
        model = engine.model
        self._builder = PromptBuilder(
            engine.tokenizer,
            vocab_size=model.vocab_size,
            max_tokens=model.max_length - 1,  # There is room for one more.
            max_prompts=limits.prompts,
        )

    async def completion(
        self, prompt: Any, *, add_special_tokens: bool = True, param: str = "prompt"
    ) -> list[Prompt]:
        """Returns the prompts that a completion, or what is like it, continues.

        Args:
            prompt: a text, token ids, or a list of either.
            add_special_tokens: whether texts get the tokens that the model wants around them.
            param: what clients call it.

        Raises:
            RequestError: it is none of these, or too long.
        """
        try:
            all_ids = await _run(
                _size(prompt),
                lambda: self._builder.completion(prompt, add_special_tokens=add_special_tokens),
            )
        except RequestError as error:
            message = str(error).replace("prompt", param, 1)
            raise RequestError(message, param=param) from None
        is_single = isinstance(prompt, str) or isinstance(prompt[0], int)
        texts = [prompt] if is_single else prompt
        return [
            Prompt(ids, text if isinstance(text, str) else None)
            for ids, text in zip(all_ids, texts, strict=True)
        ]

    async def chat(
        self, messages: Sequence[dict[str, Any]], fields: ConversationFields, *, show_tools: bool
    ) -> Prompt:
        """Returns a conversation as the model's chat template writes it.

        Raises:
            RequestError: there is no template, or it does not take the conversation.
        """
        ids = await _run(
            _size(messages) + _size(fields.tools),
            lambda: self._builder.chat(
                messages,
                tools=fields.tools if show_tools else None,
                add_generation_prompt=fields.add_generation_prompt,
                template_kwargs=fields.chat_template_kwargs,
            ),
        )
        return Prompt(ids)


async def _run(size: int, make: Callable[[], _T]) -> _T:
    return make() if size < _LONG else await asyncio.to_thread(make)


def _size(value: Any) -> int:
    """Returns about how many characters there are in a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    if isinstance(value, list | tuple):
        return len(value) + sum(map(_size, value[:_LONG]))
    return 1
