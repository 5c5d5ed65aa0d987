"""Tokens that are proposed after a sequence's last one, for one step to check all of them.

    engine_cfg.speculation = NgramSpeculation.default_config().set(num_tokens=4)

What is proposed changes how fast tokens come, never which: a step accepts a draft exactly as often as it would have drawn it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trellax.config import Configurable
from trellax.inference.sampling import NgramIndex


class Speculation(Configurable):
    """Interface: proposes tokens."""

    class Config(Configurable.Config):
        """
        Fields:
            num_tokens: drafts of a step, at most.
        """

        num_tokens: int = 4

        def check(self) -> None:
            super().check()
            if self.num_tokens < 1:
                raise ValueError(f"num_tokens={self.num_tokens} must be at least 1.")

    def start(self, prompt_ids: Sequence[int]) -> Any:
        """Returns what the proposer keeps of a new sequence."""
        raise NotImplementedError

    def propose(self, kept: Any, output_ids: Sequence[int]) -> list[int]:
        """Returns drafts of what follows a sequence, possibly none.

        Args:
            kept: what `start` returned for it.
            output_ids: all that was generated so far.
        """
        raise NotImplementedError


class _History:
    """The index of a sequence, which grows with it."""

    def __init__(self, index: NgramIndex, prompt_length: int):
        self._index, self._prompt_length = index, prompt_length

    def after(self, output_ids: Sequence[int]) -> NgramIndex:
        self._index.extend(output_ids[len(self._index) - self._prompt_length :])
        return self._index


class NgramSpeculation(Speculation):
    """Proposes what followed the last few tokens where the sequence had them before (prompt lookup).

    It costs nothing where text repeats itself (code that is edited, documents that are quoted), and the model nothing else.
    """

    class Config(Speculation.Config):
        """
        Fields:
            max_ngram: last tokens that are looked for; the longest match counts.
            min_ngram: the fewest that make a match.
        """

        max_ngram: int = 4
        min_ngram: int = 2

    def start(self, prompt_ids: Sequence[int]) -> _History:
        index = NgramIndex(prompt_ids, max_ngram=self.cfg.max_ngram, min_ngram=self.cfg.min_ngram)
        return _History(index, len(prompt_ids))

    def propose(self, kept: _History, output_ids: Sequence[int]) -> list[int]:
        return kept.after(output_ids).drafts(self.cfg.num_tokens)
