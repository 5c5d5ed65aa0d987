"""`NgramSpeculation`: drafts from what a sequence has said before.

engine_cfg.speculation = NgramSpeculation.default_config().set(num_tokens=4)
"""

from __future__ import annotations

from collections.abc import Sequence

from trellax.inference.engine.speculation import DraftAsk, Speculation, StepToDraft
from trellax.inference.execution import Drafts, no_drafts
from trellax.inference.sampling import NgramIndex


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

    def propose(self, asks: Sequence[DraftAsk], step: StepToDraft) -> Drafts:
        drafts = no_drafts(step.num_rows, self.cfg.num_tokens)
        for ask in asks:
            found = ask.kept.after(ask.output_ids).drafts(ask.most)
            drafts.ids_DK[ask.index, : len(found)] = found
            drafts.counts_D[ask.index] = len(found)
        return drafts
