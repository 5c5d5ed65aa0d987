"""Text to train on: the corpus that ships with the experiments, and the shape of a real one.

cfg.input = austen_input(vocab_size=2048, sequence_length=256, global_batch_size=16)
"""

from __future__ import annotations

from typing import Any

from trellax.runtime.input import (
    AtHeadings,
    BpeTokenizer,
    DocumentSequences,
    FileTokenizer,
    Input,
    PackageText,
    ParquetDocuments,
)

_DATA = "trellax.experiments.data"
_CHAPTER = r"(?i)^(?:VOLUME [IVX]+\s+)?CHAPTER (?:[IVXLC]+|\d+)$"
TRAINING_NOVELS = (
    "sense_and_sensibility.txt",
    "pride_and_prejudice.txt",
    "mansfield_park.txt",
    "emma.txt",
    "northanger_abbey.txt",
)
HELD_OUT_NOVELS = ("persuasion.txt",)


def austen_input(
    *, vocab_size: int, sequence_length: int, global_batch_size: int, held_out: bool = False
) -> Input.Config:
    """Returns packed chapters of five novels, or one pass over the held-out sixth.

    Args:
        vocab_size: of the byte-level BPE that is trained on the five on first use.
        sequence_length: tokens a row.
        global_batch_size: rows a batch.
        held_out: whether to read the novel that training never sees.
    """
    training = _novels(TRAINING_NOVELS)
    documents = _novels(HELD_OUT_NOVELS) if held_out else training
    return Input.default_config().set(
        dataset=DocumentSequences.default_config().set(documents=documents, shuffle=not held_out),
        tokenizer=BpeTokenizer.default_config().set(documents=training, vocab_size=vocab_size),
        sequence_length=sequence_length,
        global_batch_size=global_batch_size,
        repeat=not held_out,
    )


def pretraining_input(*, sequence_length: int, global_batch_size: int) -> Input.Config:
    """Returns the input of a full-size run: Parquet files and the model's own tokenizer.

    Where they lie is the user's to say:

        input.dataset.documents.paths=/data/corpus/*.parquet
        input.tokenizer.file=/data/tokenizer.json input.tokenizer.eos_token='</s>'
    """
    return Input.default_config().set(
        dataset=DocumentSequences.default_config().set(
            documents=ParquetDocuments.default_config(), add_bos=True
        ),
        tokenizer=FileTokenizer.default_config(),
        sequence_length=sequence_length,
        global_batch_size=global_batch_size,
    )


def _novels(names: tuple[str, ...]) -> Any:
    split = AtHeadings.default_config().set(heading=_CHAPTER)
    return PackageText.default_config().set(package=_DATA, resources=list(names), split=split)
