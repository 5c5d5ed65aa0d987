"""`PromptBuilder`: what clients send as a prompt, as token ids.

prompts = PromptBuilder(tokenizer, vocab_size=49152, max_tokens=8192)
prompts.completion(["Once", "Twice"])  # [(4592,), (48, 12380)]
prompts.chat([{"role": "user", "content": "Hi."}])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trellax.inference.requests import RequestError
from trellax.inference.text.chat import ChatTemplate
from trellax.inference.text.tokenizer import Tokenizer

TokenIds = tuple[int, ...]


class PromptBuilder:
    """Encodes and checks prompts for one model."""

    def __init__(
        self, tokenizer: Tokenizer, *, vocab_size: int, max_tokens: int, max_prompts: int = 1024
    ):
        """Compiles the tokenizer's chat template.

        Args:
            tokenizer: the model's.
            vocab_size: ids that the model embeds are below it.
            max_tokens: a longer prompt is refused.
            max_prompts: so is a longer list of prompts.
        """
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_tokens = max_tokens
        self._max_prompts = max_prompts
        self._template = ChatTemplate(
            tokenizer.chat_template, special_tokens=tokenizer.special_tokens
        )

    def completion(
        self, prompt: Any, *, add_special_tokens: bool = True, param: str = "prompt"
    ) -> list[TokenIds]:
        """Returns the prompts of a request for completions.

        Args:
            prompt: a text, token ids, or a list of texts or of lists of token ids.
            add_special_tokens: whether texts get the tokens that the model wants around every text, as the one that
                begins it. Token ids are taken as they are.
            param: what the client calls the prompt, for errors.

        Raises:
            RequestError: it is something else, empty, too long or not in the vocabulary.
        """
        if isinstance(prompt, str):
            return [self._encoded(prompt, param, add_special_tokens=add_special_tokens)]
        if not isinstance(prompt, Sequence) or not prompt:
            raise _wrong(param, "a text, a list of texts, token ids, or a list of those")
        if _is_id(prompt[0]):
            return [self._checked(prompt, param)]
        if len(prompt) > self._max_prompts:
            raise _wrong(param, f"at most {self._max_prompts} prompts, not {len(prompt)}")
        return [
            (
                self._encoded(one, f"{param}[{i}]", add_special_tokens=add_special_tokens)
                if isinstance(one, str)
                else self._checked(one, f"{param}[{i}]")
            )
            for i, one in enumerate(prompt)
        ]

    def chat(
        self,
        messages: Any,
        *,
        tools: Any = None,
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> TokenIds:
        """Returns the prompt of a chat. Special tokens are those that the template writes; none is added."""
        text = self._template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            template_kwargs=template_kwargs,
        )
        return self._encoded(text, "messages", add_special_tokens=False)

    def _encoded(self, text: str, path: str, *, add_special_tokens: bool) -> TokenIds:
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise _wrong(path, f"Unicode text; character {e.start} is half of a pair") from None
        ids = self._tokenizer.encode(
            text, add_special_tokens=add_special_tokens, parse_special=True
        )
        return self._sized(tuple(map(int, ids)), path)

    def _checked(self, ids: Any, path: str) -> TokenIds:
        if not isinstance(ids, Sequence) or not all(map(_is_id, ids)):
            raise _wrong(path, "a text or a list of token ids, and the prompts of a request alike")
        if ids and not 0 <= min(ids) <= max(ids) < self._vocab_size:
            bad = next(i for i in ids if not 0 <= i < self._vocab_size)
            raise _wrong(path, f"token ids from 0 to {self._vocab_size - 1}, not {bad}")
        return self._sized(tuple(ids), path)

    def _sized(self, ids: TokenIds, path: str) -> TokenIds:
        if not ids:
            raise _wrong(path, "at least one token")
        if len(ids) > self._max_tokens:
            raise _wrong(path, f"at most {self._max_tokens} tokens; it has {len(ids)}")
        return ids


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(path: str, expected: str) -> RequestError:
    return RequestError(f"{path} must be {expected}.", param=path.split("[", 1)[0])
