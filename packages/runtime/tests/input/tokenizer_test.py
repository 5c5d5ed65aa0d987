"""Tokenizers: round trips, determinism, the cache and its safety."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.input import training_process
from tests.input.samples import in_memory, texts
from trellax.config import ConfigError
from trellax.runtime.input import BpeTokenizer, ByteTokenizer, FileTokenizer, InputError

CORPUS = [t for t in texts(200) if t]


def bpe(vocab_size: int = 300) -> Any:
    return BpeTokenizer.default_config().set(documents=in_memory(CORPUS), vocab_size=vocab_size)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text(), max_size=4))
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_every_text_survives(kind: str, batch: list[str]) -> None:
    cfg = {"bytes": ByteTokenizer.default_config, "bpe": bpe}[kind]()
    tokenizer = cfg.instantiate()
    encoded = tokenizer.encode_batch(batch)
    for text, ids in zip(batch, encoded):
        assert ids.dtype == np.int32 and ids.ndim == 1
        assert tokenizer.decode(ids) == text
        np.testing.assert_array_equal(tokenizer.encode(text), ids)
        assert not np.isin(ids, [tokenizer.bos_id, tokenizer.eos_id]).any()
        assert (ids < tokenizer.vocab_size).all()


@pytest.mark.parametrize("cfg", [ByteTokenizer.default_config(), bpe()])
def test_ends_of_documents_stand_for_no_text(cfg: Any) -> None:
    tokenizer = cfg.instantiate()
    ids = [tokenizer.bos_id, *tokenizer.encode("was"), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "was"


def test_text_that_spells_a_special_token_is_text() -> None:
    tokenizer = bpe().instantiate()
    ids = tokenizer.encode("<eos>")
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == "<eos>"


def test_training_merges_what_is_frequent() -> None:
    tokenizer = bpe().instantiate()
    assert tokenizer.vocab_size == 300
    assert len(tokenizer.encode("the that with")) < len("the that with") / 2


def test_training_is_deterministic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prints = set()
    for i in range(3):
        monkeypatch.setenv("TRELLAX_CACHE_DIR", str(tmp_path / str(i)))
        prints.add(bpe().instantiate().fingerprint())
    assert len(prints) == 1


def test_a_corpus_too_small_for_the_vocabulary_leaves_ids_over() -> None:
    cfg = BpeTokenizer.default_config().set(documents=in_memory(["abab abab"]), vocab_size=1000)
    tokenizer = cfg.instantiate()
    assert tokenizer.vocab_size == 1000
    assert tokenizer.decode(tokenizer.encode("other text")) == "other text"


def test_training_reads_no_more_than_it_is_told() -> None:
    documents = ["aaaa" * 50, "bbbb" * 50]
    whole = BpeTokenizer.default_config().set(documents=in_memory(documents), vocab_size=300)
    first = whole.clone(max_characters=200).instantiate()
    assert len(first.encode("bbbb")) == 4
    assert len(whole.instantiate().encode("bbbb")) < 4


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size is 100"):
        bpe(100).instantiate()


def trained(cache_dir: Path) -> Path:
    (file,) = cache_dir.glob("tokenizers/*/tokenizer.json")
    return file


def test_the_vocabulary_is_trained_once_per_corpus_and_size(cache_dir: Path) -> None:
    bpe().instantiate()
    before = trained(cache_dir).stat()
    bpe().instantiate()
    assert trained(cache_dir).stat().st_mtime_ns == before.st_mtime_ns
    bpe(301).instantiate()
    assert len(list(cache_dir.glob("tokenizers/*/tokenizer.json"))) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "deleted"])
def test_a_damaged_cache_is_made_again(damage: str, cache_dir: Path) -> None:
    fingerprint = bpe().instantiate().fingerprint()
    file = trained(cache_dir)
    content = file.read_bytes()
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes(content[:100] if damage == "cut" else content.replace(b"he", b"eh", 1))
    assert bpe().instantiate().fingerprint() == fingerprint
    assert file.read_bytes() == content


def test_processes_may_train_at_once(cache_dir: Path) -> None:
    command = [sys.executable, training_process.__file__, json.dumps(CORPUS)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert {output.strip() for output in outputs} == {bpe().instantiate().fingerprint()}
    left = [p.name for p in (cache_dir / "tokenizers").iterdir() if p.suffix != ".lock"]
    assert left == [trained(cache_dir).parent.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("TRELLAX_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="set TRELLAX_CACHE_DIR"):
        bpe().instantiate()


def test_a_saved_vocabulary_can_be_read_from_its_file(tmp_path: Path) -> None:
    tokenizer = bpe().instantiate()
    tokenizer.save(tmp_path / "tokenizer.json")
    cfg = FileTokenizer.default_config().set(file=str(tmp_path / "tokenizer.json"))
    copy = cfg.set(eos_token="<eos>", bos_token="<bos>").instantiate()
    np.testing.assert_array_equal(copy.encode(CORPUS[0]), tokenizer.encode(CORPUS[0]))
    assert (copy.bos_id, copy.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert copy.fingerprint() == tokenizer.fingerprint()


def test_bad_tokenizer_files_are_named(tmp_path: Path) -> None:
    cfg = FileTokenizer.default_config().set(file=str(tmp_path / "t.json"), eos_token="</s>")
    with pytest.raises(InputError, match=r"t\.json: no such file"):
        cfg.instantiate()
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(InputError, match=r"t\.json: not a tokenizer\.json file"):
        cfg.instantiate()
    bpe().instantiate().save(tmp_path / "t.json")
    with pytest.raises(InputError, match="no token '</s>'; its special tokens: '<bos>', '<eos>'"):
        cfg.instantiate()
