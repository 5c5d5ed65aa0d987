"""A user's own files in place of an experiment's text: what `--text=FILES` does.

use_text(trainer_cfg, ["notes/*.txt"], held_out=0.05)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trellax.config import Config, replace_config, select
from trellax.runtime.input.array_record import ArrayRecordDocuments
from trellax.runtime.input.documents import DocumentRange, DocumentSource
from trellax.runtime.input.errors import InputError
from trellax.runtime.input.files import expand
from trellax.runtime.input.input import Input
from trellax.runtime.input.jsonl import JsonlDocuments
from trellax.runtime.input.parquet import ParquetDocuments
from trellax.runtime.input.splitting import ParagraphGroups
from trellax.runtime.input.text_files import TextFiles

_RECORDS = (JsonlDocuments, ParquetDocuments, ArrayRecordDocuments)


def use_text(
    cfg: Config, paths: Sequence[str], *, held_out: float = 0.05, eval_paths: Sequence[str] = ()
) -> list[str]:
    """Points every `Input` in a tree at other files, in place.

    Inputs that repeat (training) read the training text, single passes (evaluation) the held-out
    text; tokenizers that are trained are trained on the training text.

    Args:
        cfg: the tree to change.
        paths: files, folders or globs; see `documents_from`.
        held_out: fraction of the documents, the last ones, that are kept for evaluation.
        eval_paths: files to evaluate on instead; then nothing of `paths` is held out.

    Returns:
        Paths of the inputs that were changed.

    Raises:
        InputError: if a path leads to no file, or the files are of several kinds.
    """
    training = documents_from(paths)
    if eval_paths:
        evaluation = documents_from(eval_paths)
    else:
        part = DocumentRange.default_config().set(documents=training)
        training = part.clone(start=0.0, stop=1.0 - held_out)
        evaluation = part.clone(start=1.0 - held_out, stop=1.0)
    inputs = select(cfg, Input)
    for _, node in inputs:
        _replace_documents(node.tokenizer, training)
        _replace_documents(node.dataset, training if node.repeat else evaluation)
    return [path for path, _ in inputs]


def documents_from(paths: Sequence[str]) -> Any:
    """Returns the config of a source for files, chosen by how their names end.

    .jsonl, .parquet and .array_record hold a document a record, in the field or column "text".
    Anything else is read as text and cut into groups of paragraphs; a folder stands for its .txt.

    Raises:
        InputError: if a path leads to no file, or the files are of several kinds.
    """
    suffixes = {file.suffix for file in expand(paths, suffix=".txt")}
    for source in _RECORDS:
        cfg = source.default_config().set(paths=list(paths))
        if suffixes == {cfg.suffix}:
            return cfg
        if cfg.suffix in suffixes:
            raise InputError(f"{', '.join(paths)}: files of several kinds ({sorted(suffixes)}).")
    split = ParagraphGroups.default_config()
    return TextFiles.default_config().set(paths=list(paths), split=split)


def _replace_documents(cfg: Config, documents: Config) -> None:
    if select(cfg, DocumentSource):
        replace_config(cfg, target=DocumentSource, new_cfg=documents)
