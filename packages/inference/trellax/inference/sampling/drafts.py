"""Drafts without a draft model: what followed the last tokens when they stood in the sequence before (prompt lookup).

    index = NgramIndex(prompt_ids, max_ngram=4, min_ngram=2)
    drafts = index.drafts(num_drafts=5)
    index.append(token)

Host code: the index takes constant time for each token, so a long history costs nothing at a step.
"""

from __future__ import annotations

from collections.abc import Sequence


class NgramIndex:
    """A sequence that knows where its last n-grams stood before."""

    def __init__(self, history: Sequence[int] = (), *, max_ngram: int = 4, min_ngram: int = 2):
        """
        Args:
            history: the first tokens.
            max_ngram: the longest n-gram that is looked for; longer matches are tried first.
            min_ngram: the shortest.
        """
        if not 1 <= min_ngram <= max_ngram:
            raise ValueError(
                f"min_ngram={min_ngram} must be at least 1 and at most max_ngram={max_ngram}."
            )
        self._tokens: list[int] = []
        self._lengths = range(max_ngram, min_ngram - 1, -1)
        # Of each length: where the token after an n-gram's last occurrence is, and that of the final n-gram's one before.
        self._ends: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in self._lengths}
        self._matches: dict[int, int | None] = dict.fromkeys(self._lengths)
        self.extend(history)

    def __len__(self) -> int:
        return len(self._tokens)

    def append(self, token: int) -> None:
        self._tokens.append(token)
        end = len(self._tokens)
        for n in self._lengths:
            if n <= end:
                ngram = tuple(self._tokens[end - n :])
                self._matches[n] = self._ends[n].get(ngram)
                self._ends[n][ngram] = end

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.append(token)

    def drafts(self, num_drafts: int) -> list[int]:
        """Returns the tokens after the latest earlier occurrence of the longest final n-gram that has one.

        Where that runs into the end of the sequence it goes on through the drafts themselves, which repeats what repeats. Without
        a match there are none.
        """
        start = next((m for n in self._lengths if (m := self._matches[n]) is not None), None)
        if start is None:
            return []
        following = self._tokens[start : start + num_drafts]
        period = len(following)
        return [following[i % period] for i in range(num_drafts)]


def ngram_drafts(
    history: Sequence[int], *, max_ngram: int = 4, min_ngram: int = 2, num_drafts: int
) -> list[int]:
    """Returns drafts for one history; an `NgramIndex` keeps what this builds.

    Args:
        history: the prompt and what was generated.
        max_ngram: the longest n-gram that is looked for.
        min_ngram: the shortest.
        num_drafts: how many tokens to draft.
    """
    index = NgramIndex(history, max_ngram=max_ngram, min_ngram=min_ngram)
    return index.drafts(num_drafts)
