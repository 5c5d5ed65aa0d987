"""A run's own tokenizer serves its checkpoints: the same ids, the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pretrained_tokenizer.samples import TEXTS, trained
from trellax.runtime.input import (
    BpeTokenizer,
    ByteTokenizer,
    FileTokenizer,
    InMemoryDocuments,
    Tokenizer,
)
from trellax.runtime.pretrained_tokenizer import TokenizerError, as_pretrained


def of_kind(kind: str, folder: Path) -> Any:
    if kind == "bytes":
        return ByteTokenizer.default_config().instantiate()
    if kind == "trained":
        documents = InMemoryDocuments.default_config().set(texts=[t for t in TEXTS if t])
        return BpeTokenizer.default_config().set(documents=documents, vocab_size=400).instantiate()
    trained().save(str(folder / "tokenizer.json"))
    cfg = FileTokenizer.default_config().set(file=str(folder / "tokenizer.json"))
    return cfg.set(eos_token="</s>", bos_token="<s>" if kind == "file" else None).instantiate()


@pytest.mark.parametrize("kind", ["bytes", "trained", "file", "file without bos"])
def test_ids_and_texts_are_those_of_the_run(kind: str, tmp_path: Path) -> None:
    run = of_kind(kind, tmp_path)
    served = as_pretrained(run)
    assert (served.bos_id, served.eos_id) == (run.bos_id, run.eos_id)
    assert served.eos_ids == {run.eos_id}
    for text in TEXTS:
        ids = served.encode(text, parse_special=False)
        np.testing.assert_array_equal(ids, run.encode(text))
        assert served.decode(ids) == run.decode(ids) == text
        assert b"".join(map(served.token_bytes, ids.tolist())) == text.encode()
        around = [] if run.bos_id is None else [run.bos_id]
        with_bos = served.encode(text, parse_special=False, add_special_tokens=True)
        assert with_bos.tolist() == [*around, *ids]
    assert served.is_special(run.eos_id) and served.decode([run.eos_id]) == ""
    assert as_pretrained(served) is served


def test_a_tokenizer_of_another_class_is_refused() -> None:
    class Mine(Tokenizer):
        """One of somebody else."""

    with pytest.raises(TokenizerError, match="Mine cannot be served"):
        as_pretrained(Mine.default_config().instantiate())
