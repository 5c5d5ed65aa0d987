"""`ChatTemplate`: messages to the text that a model was trained to answer.

    template = ChatTemplate(tokenizer.chat_template, special_tokens=tokenizer.special_tokens)
    template.render([{"role": "user", "content": "Who is Emma?"}])

Text of clients can spell special tokens, as with every template: whoever serves strangers must not rely on roles.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import meta

from trellax.inference.requests import RequestError
from trellax.inference.text.messages import Content, checked_messages, checked_tools
from trellax.inference.text.templates import sandbox


class ChatTemplate:
    """A compiled template, and what it knows of."""

    def __init__(
        self,
        source: str | None,
        *,
        special_tokens: Mapping[str, str],
        max_characters: int = 4_000_000,
        max_seconds: float = 10.0,
    ):
        """Compiles the template.

        Args:
            source: Jinja; None for a model that has no template, which cannot chat.
            special_tokens: what the template calls by name, as `{"bos_token": "<s>"}`.
            max_characters: of a rendered text. It is refused as soon as it is longer.
            max_seconds: of rendering, looked at between the pieces that the template writes.

        Raises:
            ValueError: the template is no Jinja.
        """
        self._special_tokens = dict(special_tokens)
        self._max_characters = max_characters
        self._max_seconds = max_seconds
        self._template: jinja2.Template | None = None
        if source is not None:
            self._compile(source)

    def render(
        self,
        messages: Any,
        *,
        tools: Any = None,
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Returns the text of `messages`.

        Args:
            messages: as a client sent them: a list of objects with `role` and `content`.
            tools: the same, of functions that the model may call; None or empty for none.
            add_generation_prompt: whether the text ends where the assistant's answer begins.
            template_kwargs: further names for the template, as `enable_thinking`.

        Raises:
            RequestError: there is no template, or it does not take these messages; says which and why.
        """
        if self._template is None:
            raise RequestError(
                "This model has no chat template; send a text to /v1/completions, or serve it with a template."
            )
        names = {
            **self._further(template_kwargs or {}),
            "messages": self._messages(messages),
            "tools": self._tools(tools),
            "add_generation_prompt": add_generation_prompt,
        }
        return self._run(self._template, names)

    def _compile(self, source: str) -> None:
        environment = sandbox()
        try:
            self._template = environment.from_string(source)
            self._names = meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateSyntaxError as e:
            raise ValueError(f"The chat template, line {e.lineno}: {e.message}.") from None
        self._knows_developers = "developer" in source
        self._content: Content = "string"
        self._content = self._content_taken()

    def _content_taken(self) -> Content:
        """Returns the form of content that reaches the text; templates of models that see pictures may want parts."""
        for content in ("string", "parts"):
            self._content = content
            try:
                if "probe" in self.render([{"role": "user", "content": "probe"}]):
                    return content
            except RequestError:
                continue  # It wants more than a message. That it takes text is the rule.
        return "string"

    def _messages(self, messages: Any) -> list[dict[str, Any]]:
        checked = checked_messages(messages, content=self._content)
        for message in checked:
            if message["role"] == "developer" and not self._knows_developers:
                message["role"] = "system"  # Newer clients' name for it.
        return checked

    def _tools(self, tools: Any) -> list[dict[str, Any]] | None:
        if not tools:
            return None
        if "tools" not in self._names:
            raise RequestError("This model's chat template knows no tools.", param="tools")
        return checked_tools(tools)

    def _further(self, template_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        taken = {"messages", "tools", "add_generation_prompt", *self._special_tokens}
        if clash := sorted(taken & set(template_kwargs)):
            raise RequestError(
                f"chat_template_kwargs may not set {', '.join(clash)}.",
                param="chat_template_kwargs",
            )
        return {**self._special_tokens, **template_kwargs}

    def _run(self, template: jinja2.Template, names: Mapping[str, Any]) -> str:
        try:
            return self._bounded(template, names)
        except RequestError:
            raise
        except RecursionError:
            raise RequestError("messages or tools are nested too deep.", param="messages") from None
        except Exception as e:  # A template may trip over anything that is in a message.
            raise RequestError(
                f"The model's chat template does not take these messages: {e}", param="messages"
            ) from None

    def _bounded(self, template: jinja2.Template, names: Mapping[str, Any]) -> str:
        pieces, num_characters = [], 0
        deadline = time.monotonic() + self._max_seconds
        for piece in template.generate(names):
            pieces.append(piece)
            num_characters += len(piece)
            if num_characters > self._max_characters:
                raise RequestError(
                    f"The messages' text is longer than {self._max_characters} characters.",
                    param="messages",
                )
            if time.monotonic() > deadline:
                raise RequestError(
                    f"The chat template ran for more than {self._max_seconds} s on these messages.",
                    param="messages",
                )
        return "".join(pieces)
