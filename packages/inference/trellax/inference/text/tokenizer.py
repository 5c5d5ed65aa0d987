"""`Tokenizer`: what serving asks of a model's tokenizer, whoever made it.

def greet(tokenizer: Tokenizer) -> str:
    return tokenizer.decode(tokenizer.encode("Anne"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class Tokenizer(Protocol):
    """A tokenizer with the special tokens and the chat template of its model.

    Attributes:
        vocab_size: one more than the largest id.
        bos_id: the token that may begin a text, or None.
        eos_ids: tokens that end one.
        chat_template: Jinja source that turns messages into text, or None.
        special_tokens: what templates call by name, as `{"bos_token": "<s>"}`.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_ids(self) -> frozenset[int]: ...

    @property
    def chat_template(self) -> str | None: ...

    @property
    def special_tokens(self) -> Mapping[str, str]: ...

    def encode(
        self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True
    ) -> Sequence[int] | np.ndarray:
        """Returns the ids of `text`.

        Args:
            add_special_tokens: whether the tokens that the model wants around every text are added.
            parse_special: whether "<s>" in the text is the special token or three characters.
        """
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Returns the text of `ids`."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the bytes that a token stands for within a text: b" to", or one byte of a character."""
        ...

    def is_special(self, token_id: int) -> bool:
        """Returns whether a token controls the model and is not a piece of text."""
        ...

    def to_json(self) -> str:
        """Returns the vocabulary and its rules as a `tokenizer.json`."""
        ...
