"""Tokenizers of folders: ids of the library, exact bytes, special tokens, templates and end tokens from wherever they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import processors

from tests.pretrained_tokenizer.samples import TEXTS, tokenizer_folder, trained, write_json
from trellax.runtime.pretrained_tokenizer import (
    PretrainedTokenizer,
    TokenizerError,
    read_tokenizer,
)

LIBRARY = trained()
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}


def opened(folder: Path, config: Any = None, library: Any = LIBRARY) -> PretrainedTokenizer:
    return read_tokenizer(tokenizer_folder(folder, library, NAMED if config is None else config))


# ---- parity ------------------------------------------------------------------------------------------


def test_ids_are_those_of_the_library(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path)
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS)):
        assert ids.dtype == np.int32 and ids.ndim == 1
        assert ids.tolist() == LIBRARY.encode(text, add_special_tokens=False).ids
        np.testing.assert_array_equal(tokenizer.encode(text), ids)


def test_it_is_a_component_of_an_input_too(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path)
    built = PretrainedTokenizer.default_config().set(source=str(tmp_path)).instantiate()
    assert built.fingerprint() == tokenizer.fingerprint()
    assert (built.vocab_size, built.bos_id, built.eos_id) == (401, 0, 1)


# ---- properties --------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text())
def test_every_text_survives_and_is_made_of_its_tokens_bytes(text: str, tmp_path: Path) -> None:
    tokenizer = opened(tmp_path)
    for parse_special in (True, False):
        ids = tokenizer.encode(text, parse_special=parse_special)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        assert b"".join(tokenizer.token_bytes(i) for i in ids.tolist()) == text.encode()


@pytest.mark.parametrize("text", TEXTS)
def test_texts_in_many_scripts_survive(text: str, tmp_path: Path) -> None:
    tokenizer = opened(tmp_path)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert b"".join(tokenizer.token_bytes(i) for i in ids.tolist()) == text.encode()


def test_bytes_of_a_character_that_is_cut_are_exact(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path)
    ids = tokenizer.encode("ÿ🦜").tolist()  # Not in the text that was trained on.
    assert len(ids) > 3
    assert b"".join(map(tokenizer.token_bytes, ids)) == "ÿ🦜".encode()
    assert tokenizer.decode(ids[:-1]) == "ÿ\ufffd"


def test_special_tokens_are_read_unless_told_otherwise(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path)
    ids = tokenizer.encode("<s>hi</s>").tolist()
    assert (ids[0], ids[-1]) == (0, 1)
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>hi</s>"
    assert [tokenizer.is_special(i) for i in (0, 1, 2, 3, 400)] == [True, True, True, False, False]
    literal = tokenizer.encode("<s>hi</s>", parse_special=False).tolist()
    assert not {0, 1} & set(literal)
    assert tokenizer.decode(literal) == "<s>hi</s>"
    np.testing.assert_array_equal(tokenizer.encode("<s>hi</s>"), ids)  # The setting is one call's.


def test_ids_without_a_token_stand_for_no_bytes(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path)
    assert tokenizer.token_bytes(tokenizer.vocab_size) == b"" == tokenizer.token_bytes(-1)


# ---- what the model expects around a text ------------------------------------------------------------


def test_tokens_around_a_text_are_those_of_the_library(tmp_path: Path) -> None:
    library = trained()
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer = opened(tmp_path, library=library)
    hi = tokenizer.encode("hi").tolist()
    assert tokenizer.encode("hi", add_special_tokens=True).tolist() == [0, *hi]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("eos", [False, True])
def test_the_config_decides_if_it_says_so(bos: bool, eos: bool, tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, NAMED | {"add_bos_token": bos, "add_eos_token": eos})
    hi = tokenizer.encode("hi").tolist()
    expected = [0] * bos + hi + [1] * eos
    assert tokenizer.encode("hi", add_special_tokens=True).tolist() == expected


# ---- what stands beside tokenizer.json ----------------------------------------------------------------


def test_special_tokens_may_be_objects_and_in_either_file(tmp_path: Path) -> None:
    write_json(
        tmp_path / "special_tokens_map.json",
        {"eos_token": {"content": "<end>"}, "pad_token": "</s>"},
    )
    tokenizer = opened(tmp_path, {"bos_token": {"content": "<s>"}, "unk_token": None})
    assert tokenizer.special_tokens == {
        "bos_token": "<s>",
        "eos_token": "<end>",
        "pad_token": "</s>",
    }
    assert tokenizer.eos_ids == {2}


def test_end_tokens_are_those_of_generation_and_of_the_tokenizer(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"eos_token_id": 7})
    assert opened(tmp_path).eos_ids == {1, 7}
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [2, 5]})
    tokenizer = opened(tmp_path)
    assert (tokenizer.eos_id, tokenizer.eos_ids) == (1, frozenset({1, 2, 5}))


def test_a_template_is_found_wherever_it_stands(tmp_path: Path) -> None:
    assert opened(tmp_path).chat_template is None
    assert opened(tmp_path, NAMED | {"chat_template": "one"}).chat_template == "one"
    several = [{"name": "tool_use", "template": "other"}, {"name": "default", "template": "two"}]
    assert opened(tmp_path, NAMED | {"chat_template": several}).chat_template == "two"
    (tmp_path / "chat_template.jinja").write_text("three")
    assert opened(tmp_path, NAMED | {"chat_template": "one"}).chat_template == "three"


# ---- mistakes ----------------------------------------------------------------------------------------


def test_a_folder_without_tokenizer_json_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="has no tokenizer.json"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(TokenizerError, match="It has tokenizer.model; convert it"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {}}'])
def test_a_damaged_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match="tokenizer.json"):
        read_tokenizer(tmp_path)


def test_special_tokens_that_are_no_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="eos_token is '<eot>', which is no token"):
        opened(tmp_path, {"eos_token": "<eot>"})
    with pytest.raises(TokenizerError, match="names no end token"):
        opened(tmp_path, {"bos_token": "<s>"})
