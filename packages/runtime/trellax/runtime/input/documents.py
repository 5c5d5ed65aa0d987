"""`DocumentSource`: texts by number, and the sources that need no files.

    source = InMemoryDocuments.default_config().set(texts=["one", "two"]).instantiate()
    len(source), source[1]  # 2, "two"

Files are read by `text_files`, `jsonl`, `parquet` and `array_record`.
"""

from __future__ import annotations

from collections.abc import Iterator

from trellax.config import REQUIRED, Configurable, Required
from trellax.runtime.input.errors import InputError
from trellax.runtime.input.files import digest


class DocumentSource(Configurable):
    """Documents that can be asked for in any order; the same number always gives the same text."""

    class Config(Configurable.Config):
        """Fields of every source: none."""

    def __len__(self) -> int:
        """Returns the number of documents."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> str:
        """Returns document `index`, `0 <= index < len(self)`.

        Raises:
            IndexError: for any other index.
            InputError: if the document cannot be read, with its file and line or row.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def fingerprint(self) -> str:
        """Returns a digest of all documents: what is made from them is cached under it.

        Sources that read files override this by something cheaper than reading every document.
        """
        return digest(*self)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"Document {index} of {len(self)}.")
        return index


class InMemoryDocuments(DocumentSource):
    """Texts that the config itself holds: for tests and examples."""

    class Config(DocumentSource.Config):
        """Attributes: texts: the documents."""

        texts: Required[list[str]] = REQUIRED

    cfg: Config

    def __len__(self) -> int:
        return len(self.cfg.texts)

    def __getitem__(self, index: int) -> str:
        return self.cfg.texts[self._checked(index)]


class DocumentRange(DocumentSource):
    """A part of another source: what splits one corpus into training and held-out documents.

    Ranges that meet (`stop=0.9` and `start=0.9`) share no document and leave none out. Where there
    is more than one document no part that is written as non-empty is empty.
    """

    class Config(DocumentSource.Config):
        """The range.

        Attributes:
            documents: the whole.
            start: fraction of the documents that lie before the range, in [0, 1).
            stop: fraction of the documents that lie before its end, in (0, 1].
        """

        documents: Required[DocumentSource.Config] = REQUIRED
        start: float = 0.0
        stop: float = 1.0

        def check(self) -> None:
            if not 0 <= self.start < self.stop <= 1:
                raise ValueError(
                    f"start={self.start} and stop={self.stop} must be 0 <= start < stop <= 1."
                )

    cfg: Config

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self._documents: DocumentSource = cfg.documents.instantiate()
        self._start, self._stop = self._boundary(cfg.start), self._boundary(cfg.stop)
        if self._start >= self._stop:
            raise InputError(
                f"{len(self._documents)} documents cannot be divided at {cfg.start} and "
                f"{cfg.stop}: give more text, or a rule that cuts it into more documents."
            )

    def _boundary(self, fraction: float) -> int:
        num_documents = len(self._documents)
        if fraction in (0.0, 1.0):
            return round(fraction) * num_documents
        return min(max(round(fraction * num_documents), 1), num_documents - 1)

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> str:
        return self._documents[self._start + self._checked(index)]

    def fingerprint(self) -> str:
        return digest(self._documents.fingerprint(), f"{self._start}:{self._stop}")
