"""What tokenizers of all sources are reduced to: `TokenizerParts`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


class TokenizerError(ValueError):
    """A tokenizer is damaged, or needs something that is not implemented here."""


@dataclasses.dataclass(frozen=True)
class TokenizerParts:
    """What a tokenizer is made of.

    Attributes:
        library: a `tokenizers.Tokenizer`.
        source: where it is from, for messages.
        special_tokens: {"bos_token": "<s>", …}: what templates call them, to how they are spelt.
        eos_ids: ids that end a text besides "eos_token".
        chat_template: Jinja template, or None.
        adds_bos: whether texts begin with "bos_token" when special tokens are added; None for what `library` does.
        adds_eos: the same for "eos_token" at the end; it counts where `adds_bos` is given.
    """

    library: Any
    source: str
    special_tokens: Mapping[str, str]
    eos_ids: frozenset[int] = frozenset()
    chat_template: str | None = None
    adds_bos: bool | None = None
    adds_eos: bool = False
