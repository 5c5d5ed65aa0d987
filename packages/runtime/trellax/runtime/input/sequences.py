"""`SequenceDataset`: rows of tokens by number; and the one that reads documents.

    dataset = DocumentSequences.default_config().set(documents=..., sequence_length=512, seed=0)
    rows = dataset.instantiate(tokenizer=tokenizer).rows()  # a grain.MapDataset
    rows[0]["input_ids"]  # int32 [S]

A row is a dictionary of int32 [S]:

| name         | content                                                                        |
|--------------|--------------------------------------------------------------------------------|
| input_ids    | tokens; 0 in padding                                                           |
| target_ids   | the token that follows in the same document; -1 after its last and in padding  |
| segment_ids  | 1, 2, … for the documents in the row, 0 in padding                             |
| positions    | 0, 1, … within each segment: a document that continues here starts at 0 again  |

A target may lie in the next row: cutting a document loses no target. S positions of a row,
V vocabulary, W rows of an epoch.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32

from trellax.config import REQUIRED, Configurable, Required
from trellax.runtime.input.documents import DocumentSource
from trellax.runtime.input.packing import Layout, Span
from trellax.runtime.input.token_store import TokenStore
from trellax.runtime.input.tokenizer import TokenIds, Tokenizer

Frequencies = Float64[np.ndarray, "V"]
Row = dict[str, Int32[np.ndarray, "S"]]
ROW_NAMES = ("input_ids", "target_ids", "segment_ids", "positions")

_LAYOUTS_IN_MEMORY = 2  # Rows around the end of an epoch come from two.


class SequenceDataset(Configurable):
    """Interface of what an `Input` batches. Built with the tokenizer that all of its text shares."""

    class Config(Configurable.Config):
        """What the owner provides.

        Attributes:
            sequence_length: S.
            seed: of every random choice.
        """

        sequence_length: Required[int] = REQUIRED
        seed: Required[int] = REQUIRED

    def rows(self) -> Any:
        """Returns the rows as a `grain.MapDataset`: `len` is W, and row i belongs to epoch i // W.

        Any `i >= 0` is valid: epochs go on for ever, each in an order of its own.
        """
        raise NotImplementedError

    def target_frequencies(self) -> Frequencies:
        """Returns how often each id is a target, as a part of all targets, float64 [V]."""
        raise NotImplementedError


class DocumentSequences(SequenceDataset):
    """Documents, each ended by eos, cut into rows.

    In each epoch every token stands in exactly one row. The order of the documents and that of the
    rows are drawn anew for each epoch from (seed, epoch).
    """

    class Config(SequenceDataset.Config):
        """What to read and how to cut it.

        Attributes:
            documents: the text.
            pack: whether documents share rows; if not, each begins a row of its own.
            shuffle: whether order is drawn; if not, it is that of the source in every epoch.
            add_bos: whether bos begins each document, so that its first token is a target too.
        """

        documents: Required[DocumentSource.Config] = REQUIRED
        pack: bool = True
        shuffle: bool = True
        add_bos: bool = False

    cfg: Config

    def __init__(self, cfg: Config, *, tokenizer: Tokenizer):
        super().__init__(cfg)
        if cfg.add_bos and tokenizer.bos_id is None:
            raise ValueError("add_bos=True, but the tokenizer has no bos; set its `bos_token`.")
        self._store = TokenStore(cfg.documents.instantiate(), tokenizer)
        self._bos = [tokenizer.bos_id] if cfg.add_bos else []
        self._eos = [tokenizer.eos_id]
        extra = len(self._bos) + len(self._eos)
        self._lengths = np.where(self._store.lengths > 0, self._store.lengths + extra, 0)
        self._layouts: dict[int, Layout] = {}
        self._lock = threading.Lock()
        self.num_rows = self._layout(0).num_rows

    def rows(self) -> Any:
        from trellax.runtime.input import pipeline  # grain: for runs that read, not for configs.

        rows = pipeline.RowsByFunction(self.row, self.num_rows)
        return rows.shuffle(_seed(self.cfg.seed, 0)) if self.cfg.shuffle else rows

    def row(self, index: int) -> Row:
        """Returns row `index % W` of epoch `index // W`, before rows are shuffled."""
        epoch, row = divmod(index, self.num_rows)
        result = padding_row(self.cfg.sequence_length)
        place = 0
        for segment, span in enumerate(self._layout(epoch).spans(row), 1):
            place = self._fill(result, place, segment, span)
        return result

    def target_frequencies(self) -> Frequencies:
        occurrences, firsts = self._store.counts
        targets = occurrences.astype(np.float64)
        targets[self._eos] += np.count_nonzero(self._lengths)
        if not self._bos:
            targets -= firsts
        return targets / targets.sum()

    def _fill(self, row: Row, place: int, segment: int, span: Span) -> int:
        """Writes a span into a row from `place` on, and returns where it ends."""
        ids = self._tokens(span.document, span.start, span.stop + 1)
        length = span.stop - span.start
        end = place + length
        row["input_ids"][place:end] = ids[:length]
        row["target_ids"][place : place + len(ids) - 1] = ids[1:]
        row["segment_ids"][place:end] = segment
        row["positions"][place:end] = np.arange(length)
        return end

    def _tokens(self, document: int, start: int, stop: int) -> TokenIds:
        """Returns tokens of a document as it is laid out, with bos and eos; fewer at its end."""
        num_bos, num_text = len(self._bos), int(self._store.lengths[document])
        text = self._store.tokens(
            document, max(start - num_bos, 0), min(max(stop - num_bos, 0), num_text)
        )
        before = self._bos[start:stop]
        after = self._eos if stop > num_bos + num_text else []
        return np.concatenate([before, text, after]).astype(np.int32)

    def _layout(self, epoch: int) -> Layout:
        with self._lock:  # Threads that read ahead ask at once; one of them does the work.
            if epoch not in self._layouts:
                while len(self._layouts) >= _LAYOUTS_IN_MEMORY:
                    del self._layouts[min(self._layouts)]
                self._layouts[epoch] = Layout(
                    self._lengths,
                    self._order(epoch),
                    sequence_length=self.cfg.sequence_length,
                    pack=self.cfg.pack,
                )
            return self._layouts[epoch]

    def _order(self, epoch: int) -> np.ndarray:
        num_documents = len(self._lengths)
        if not self.cfg.shuffle:
            return np.arange(num_documents)
        return np.random.default_rng([self.cfg.seed, epoch, 1]).permutation(num_documents)


def padding_row(sequence_length: int) -> Row:
    """Returns a row without a token: it has no target and weighs nothing in a loss."""
    row = {name: np.zeros(sequence_length, np.int32) for name in ROW_NAMES}
    row["target_ids"][:] = -1
    return row


def _seed(seed: int, purpose: int) -> int:
    """Returns 32 bits, unrelated for neighbouring seeds: grain adds the epoch to them."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1)[0])
