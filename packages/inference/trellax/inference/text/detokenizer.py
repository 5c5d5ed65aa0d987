"""`Detokenizer`: tokens in, complete characters out, one sequence at a time.

    detokenizer = Detokenizer(tokenizer)
    "".join([detokenizer.feed([17]), detokenizer.feed([254, 4]), detokenizer.flush()])

A token may end within a UTF-8 character; its bytes wait for the next one. However tokens are cut into
calls, the pieces concatenate to the UTF-8 of all bytes at once, where bytes that are no UTF-8 are
U+FFFD (one for each maximal part of a character: Unicode 16, section 3.9).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from trellax.inference.text.tokenizer import Tokenizer

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of a sequence that grows by tokens."""

    def __init__(
        self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True, begins_text: bool = False
    ):
        """Starts an empty sequence.

        Args:
            skip_special_tokens: whether special tokens stand for no text.
            begins_text: whether nothing is before the tokens, as there is before a continuation. Tokenizers that
                write the space before a word into the word's token put one before a text too, which is no part of it.
        """
        self._token_bytes = tokenizer.token_bytes
        self._is_special = tokenizer.is_special
        self._vocab_size = tokenizer.vocab_size
        self._skips_special = skip_special_tokens
        self._decode = _Utf8Decoder(errors="replace").decode
        self._drops_space = begins_text and _puts_a_space_first(tokenizer)

    def feed(self, token_ids: Iterable[int]) -> str:
        """Returns the characters that `token_ids` complete. Ids beyond the vocabulary stand for no text."""
        return self._text(self._decode(b"".join(map(self._bytes, token_ids))))

    def flush(self) -> str:
        """Returns what a sequence that ends here leaves: U+FFFD for an incomplete character."""
        return self._text(self._decode(b"", True))

    def _bytes(self, token_id: int) -> bytes:
        # A model may have more rows of logits than its tokenizer has tokens.
        if token_id >= self._vocab_size or (self._skips_special and self._is_special(token_id)):
            return b""
        return self._token_bytes(token_id)

    def _text(self, text: str) -> str:
        if self._drops_space and text:
            self._drops_space = False
            return text.removeprefix(" ")
        return text


def _puts_a_space_first(tokenizer: Tokenizer) -> bool:
    ids = tokenizer.encode("a", add_special_tokens=False)
    return b"".join(tokenizer.token_bytes(int(i)) for i in ids).startswith(b" ")
