"""`TextStream`: tokens in, text out, ended by a stop text.

stream = TextStream(tokenizer, stop=("\\n",))
piece = stream.feed([17, 254])
if piece.stopped_by is not None: ...  # The request is done; `piece.num_tokens` of the two belong to it.
stream.flush()  # When something else ended the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trellax.inference.text.detokenizer import Detokenizer
from trellax.inference.text.stopping import StopWatcher
from trellax.inference.text.tokenizer import Tokenizer


class TextPiece(NamedTuple):
    """What a call of `TextStream.feed` adds.

    Attributes:
        text: new text, up to the stop text if there is one.
        stopped_by: the stop text that ended the stream, None while it goes on.
        num_tokens: how many of the call's tokens belong to the stream: all, or those up to the one that completed
            the stop text.
    """

    text: str
    stopped_by: str | None
    num_tokens: int


class TextStream:
    """The text of one request. A token that ends the request for its own sake is not fed: it is no text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
    ):
        """Starts an empty text.

        Args:
            stop: texts that end it.
            include_stop: whether it keeps the one that does.
            min_tokens: so many tokens pass before a stop text may begin.
            skip_special_tokens: whether special tokens stand for no text.
        """
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
        self._watcher = StopWatcher(stop, include_stop=include_stop) if stop else None
        self._num_unwatched = min_tokens

    def feed(self, token_ids: Sequence[int]) -> TextPiece:
        """Takes the next tokens. Those that follow a stop text are dropped."""
        if self._watcher is None:
            return TextPiece(self._detokenizer.feed(token_ids), None, len(token_ids))
        return self._watch(self._watcher, token_ids)

    def flush(self) -> str:
        """Returns the text that is held back, for a stream that ends here."""
        left = self._detokenizer.flush()
        if self._watcher is None:
            return left
        text, stopped_by = self._watcher.feed(left)
        return text if stopped_by is not None else text + self._watcher.flush()

    def _watch(self, watcher: StopWatcher, token_ids: Sequence[int]) -> TextPiece:
        """Token by token, so that it is known which one completes a stop text."""
        texts: list[str] = []
        for num_before, token_id in enumerate(token_ids):
            if watcher.stopped_by is not None:
                return TextPiece("".join(texts), watcher.stopped_by, num_before)
            text = self._detokenizer.feed((token_id,))
            if self._num_unwatched > 0:
                self._num_unwatched -= 1
            else:
                text, _ = watcher.feed(text)
            texts.append(text)
        return TextPiece("".join(texts), watcher.stopped_by, len(token_ids))
