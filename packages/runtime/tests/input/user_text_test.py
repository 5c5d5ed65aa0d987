"""`use_text`: the same inputs on a user's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.input.samples import byte_input, in_memory, sequences, texts
from trellax.config import Config
from trellax.runtime.input import (
    BpeTokenizer,
    Input,
    InputError,
    JsonlDocuments,
    MixtureSequences,
    TextFiles,
    documents_from,
    use_text,
)


class Program(Config):
    """Stands for a trainer: an input and an evaluation's input somewhere in a tree."""

    training: Input.Config
    evaluation: Input.Config


def program() -> Program:
    text = in_memory(["old text " * 9])
    bpe = BpeTokenizer.default_config().set(documents=text, vocab_size=280)
    cfg = byte_input(["old text " * 9], tokenizer=bpe)
    return Program(training=cfg, evaluation=cfg.clone(repeat=False))


def read_all(cfg: Any) -> str:
    cfg = cfg.clone(repeat=False)
    cfg.dataset.set(shuffle=False)
    reader = cfg.instantiate()
    rows = [row for batch in reader.batches() for row in batch["input_ids"]]
    return "".join(reader.tokenizer.decode(row[row > 1]) for row in rows)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A file of 40 paragraphs of 1,000 characters."""
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join(f"paragraph {i:02} ".ljust(1000, "x") for i in range(40)))
    return file


def test_training_and_evaluation_read_different_parts(book: Path) -> None:
    cfg = program()
    assert use_text(cfg, [str(book)], held_out=0.1) == ["training", "evaluation"]
    training, evaluation = read_all(cfg.training), read_all(cfg.evaluation)
    assert "old text" not in training + evaluation
    assert "paragraph 00" in training and "paragraph 39" not in training
    assert "paragraph 39" in evaluation and "paragraph 00" not in evaluation


def test_tokenizers_see_training_text_only(book: Path) -> None:
    cfg = program()
    use_text(cfg, [str(book)])
    assert cfg.training.tokenizer == cfg.evaluation.tokenizer
    assert cfg.training.tokenizer.documents == cfg.training.dataset.documents


def test_evaluation_files_may_be_given(book: Path, tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("something else")
    cfg = program()
    use_text(cfg, [str(book)], eval_paths=[str(tmp_path / "other.md")])
    assert read_all(cfg.evaluation) == "something else"
    assert "paragraph 39" in read_all(cfg.training)


def test_every_component_of_a_mixture_is_replaced(book: Path) -> None:
    cfg = program()
    parts = {name: sequences(texts(3)) for name in "ab"}
    mixture = MixtureSequences.default_config().set(components=parts, weights={"a": 1.0, "b": 1.0})
    cfg.training.set(dataset=mixture)
    use_text(cfg, [str(book)])
    for part in cfg.training.dataset.components.values():
        assert part.documents == cfg.training.tokenizer.documents


def test_the_kind_of_file_is_told_by_its_name(tmp_path: Path, book: Path) -> None:
    assert isinstance(documents_from([str(book)]), TextFiles.Config)
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "a"}')
    assert isinstance(documents_from([str(lines)]), JsonlDocuments.Config)
    with pytest.raises(InputError, match="files of several kinds"):
        documents_from([str(book), str(lines)])
    with pytest.raises(InputError, match="no such file"):
        documents_from([str(tmp_path / "none.txt")])


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one paragraph")
    cfg = program()
    use_text(cfg, [str(tmp_path / "a.txt")])
    with pytest.raises(InputError, match="cannot be divided"):
        cfg.training.instantiate()
