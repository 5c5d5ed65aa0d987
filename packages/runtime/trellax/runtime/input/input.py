"""`Input`: batches by number, the same for any number of hosts.

    cfg = Input.default_config().set(tokenizer=..., dataset=..., sequence_length=512)
    reader = cfg.set(global_batch_size=64).instantiate(process_index=0, num_processes=4)
    reader.batch(1000)["input_ids"]  # int32 [16, 512]: rows 0 to 16 of global batch 1000

B rows of the global batch, S positions of a row, V vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int32

from trellax.config import REQUIRED, Configurable, Required
from trellax.runtime.input.sequences import ROW_NAMES, SequenceDataset, padding_row
from trellax.runtime.input.tokenizer import Tokenizer

Batch = dict[str, Int32[np.ndarray, "B S"]]


class Input(Configurable):
    """Global batch i is a pure function of (seed, i); each process reads its own rows of it.

    Attributes:
        tokenizer: what made the ids, for decoding samples.
    """

    class Config(Configurable.Config):
        """What to read.

        Attributes:
            dataset: gives the rows.
            tokenizer: text to ids, shared by all text of the dataset.
            global_batch_size: B, rows of a batch over all processes.
            sequence_length: S, positions of a row.
            seed: of every random choice; 0 unless set here or by the owner.
            repeat: whether epochs follow each other for ever (training) or there is one pass, whose
                last batch is filled up with padding rows (evaluation).
            prefetch_threads: threads that `batches` reads ahead with; 0 reads on demand.
            prefetch_batches: how far ahead it reads.
        """

        dataset: Required[SequenceDataset.Config] = REQUIRED
        tokenizer: Required[Tokenizer.Config] = REQUIRED
        global_batch_size: Required[int] = REQUIRED
        sequence_length: Required[int] = REQUIRED
        seed: int | None = None
        repeat: bool = True
        prefetch_threads: int = 1
        prefetch_batches: int = 4

        def derive(self) -> None:
            if self.seed is None:
                self.set(seed=0)
            self.provide(self.dataset, sequence_length=self.sequence_length, seed=self.seed)

        def check(self) -> None:
            for name in ("global_batch_size", "sequence_length"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} is {getattr(self, name)}; it must be positive.")
            if not 0 <= self.prefetch_threads <= self.prefetch_batches:
                raise ValueError(
                    f"prefetch_threads={self.prefetch_threads} must lie between 0 and "
                    f"prefetch_batches={self.prefetch_batches}."
                )

        def batch_spec(self) -> dict[str, Any]:
            """Returns a global batch as {name: jax.ShapeDtypeStruct}; no data is read."""
            import jax  # Lazily: a config is readable without jax.

            shape = (self.global_batch_size, self.sequence_length)
            return {name: jax.ShapeDtypeStruct(shape, np.int32) for name in ROW_NAMES}

    cfg: Config

    def __init__(self, cfg: Config, *, process_index: int = 0, num_processes: int = 1):
        """Opens the data; what is cached is made first, where it is missing.

        Args:
            cfg: the config.
            process_index: this process, from 0.
            num_processes: processes that share the global batch.

        Raises:
            ValueError: if the batch does not divide into equal parts.
            InputError: if the data cannot be used.
        """
        super().__init__(cfg)
        if cfg.global_batch_size % num_processes:
            raise ValueError(
                f"global_batch_size={cfg.global_batch_size} does not divide among "
                f"{num_processes} processes; choose a multiple of {num_processes}."
            )
        self._process = {"process_index": process_index, "num_processes": num_processes}
        self.tokenizer: Tokenizer = cfg.tokenizer.instantiate()
        self._dataset: SequenceDataset = cfg.dataset.instantiate(tokenizer=self.tokenizer)

    @property
    def vocab_size(self) -> int:
        """V: ids are below it."""
        return self.tokenizer.vocab_size

    @property
    def num_batches_per_epoch(self) -> int:
        """Batches that one epoch of the dataset fills, the last one perhaps in part."""
        return -(-len(self._rows) // self.cfg.global_batch_size)

    def batch_spec(self) -> dict[str, Any]:
        """Returns a global batch as {name: jax.ShapeDtypeStruct}."""
        return self.cfg.batch_spec()

    def batch(self, index: int) -> Batch:
        """Returns this process's rows of global batch `index`, int32 [B / processes, S] each.

        Raises:
            IndexError: if there is no such batch.
        """
        if not 0 <= index < len(self._batches):
            raise IndexError(f"Batch {index} of {len(self._batches)}.")
        return self._batches[index]

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Yields `batch(start)`, `batch(start + 1)`, …; threads read ahead.

        Closing the iterator (`contextlib.closing`), or leaving it to the garbage collector, ends
        the threads.
        """
        import grain  # Lazily: for runs that read, not for configs.

        options = grain.ReadOptions(
            num_threads=self.cfg.prefetch_threads, prefetch_buffer_size=self.cfg.prefetch_batches
        )
        if start >= len(self._batches):
            return
        ahead = iter(self._batches[start:].to_iter_dataset(options))
        with contextlib.closing(ahead):
            yield from ahead

    def unigram_entropy(self) -> float:
        """Returns the entropy of the targets' ids in nats: the loss of a model that knows only how
        often each id occurs (−Σ p ln p), which a trained one must beat."""
        p = self._dataset.target_frequencies()
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    @functools.cached_property
    def _rows(self) -> Any:
        return self._dataset.rows()

    @functools.cached_property
    def _batches(self) -> Any:
        """This process's batches as a `grain.MapDataset`."""
        from trellax.runtime.input import pipeline  # grain: for runs that read, not for configs.

        size = self.cfg.global_batch_size
        if self.cfg.repeat:
            rows = self._rows.repeat()
        else:
            padding = padding_row(self.cfg.sequence_length)
            rows = pipeline.PaddedTo(self._rows, self.num_batches_per_epoch * size, padding)
        mine = pipeline.ProcessRows(rows, size, **self._process)
        # Dropping nothing, but grain counts batches exactly only if told so.
        return mine.batch(size // self._process["num_processes"], drop_remainder=True)
