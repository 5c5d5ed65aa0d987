"""Pieces of text are whole characters, and together what all bytes at once decode to."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.text.sample_tokenizers import (
    TEXT,
    SampleTokenizer,
    byte_level_tokenizer,
    spaced_word_tokenizer,
)
from trellax.inference.text import Detokenizer

TOKENIZERS = {"bytes": byte_level_tokenizer, "words": spaced_word_tokenizer}
LINES = TEXT.splitlines()


def at_once(tokenizer: SampleTokenizer, ids: list[int], *, skip: bool) -> str:
    """Returns what a decoder of bytes makes of all of them."""
    kept = [i for i in ids if not (skip and tokenizer.is_special(i))]
    return b"".join(map(tokenizer.token_bytes, kept)).decode("utf-8", errors="replace")


def pieces(detokenizer: Detokenizer, ids: list[int], cuts: random.Random) -> list[str]:
    found, at = [], 0
    while at < len(ids):
        width = cuts.choice([0, 1, 1, 1, 2, 5])
        found.append(detokenizer.feed(ids[at : at + width]))
        at += width
    return [*found, detokenizer.flush()]


# ---- parity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_text_comes_back(kind: str, line: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    detokenizer = Detokenizer(tokenizer, begins_text=True)
    ids = tokenizer.encode(line, add_special_tokens=True)
    assert "".join(detokenizer.feed([i]) for i in ids) + detokenizer.flush() == line
    assert tokenizer.decode(ids) == line, "the library says the same"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 479), max_size=30), st.randoms(use_true_random=False), st.booleans())
def test_pieces_are_what_the_library_decodes_at_once(
    ids: list[int], cuts: random.Random, skip: bool
) -> None:
    tokenizer = byte_level_tokenizer()
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
    text = "".join(pieces(detokenizer, ids, cuts))
    assert text == at_once(tokenizer, ids, skip=skip)
    if skip or not any(map(tokenizer.is_special, ids)):
        assert text == tokenizer.decode(ids)


# ---- properties ---------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=0, max_size=6), max_size=12))
def test_any_bytes_decode_as_if_at_once(tokens: list[bytes]) -> None:
    """Bytes that are no UTF-8, cut anywhere: as many U+FFFD, at the same places."""
    of_token = {b: i for i, b in enumerate(map(byte_level_tokenizer().token_bytes, range(480)))}
    detokenizer = Detokenizer(byte_level_tokenizer())
    texts = [detokenizer.feed([of_token[bytes([b])] for b in token]) for token in tokens]
    whole = b"".join(tokens)
    assert "".join(texts) + detokenizer.flush() == whole.decode("utf-8", errors="replace")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_piece_never_ends_within_a_character(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    for line in LINES:
        detokenizer = Detokenizer(tokenizer)
        for token in tokenizer.encode(line):
            assert "\N{REPLACEMENT CHARACTER}" not in detokenizer.feed([token])
        assert detokenizer.flush() == ""


# ---- cases --------------------------------------------------------------------------------------


def test_a_character_that_is_never_completed_is_replaced_at_the_end() -> None:
    tokenizer = byte_level_tokenizer()
    first, *_ = tokenizer.encode("龙")
    detokenizer = Detokenizer(tokenizer)
    assert tokenizer.token_bytes(first) != "龙".encode(), "the character is several tokens"
    assert detokenizer.feed([first]) == ""
    assert detokenizer.flush() == "\N{REPLACEMENT CHARACTER}"


def test_special_tokens_are_text_only_when_asked_for() -> None:
    tokenizer = byte_level_tokenizer()
    ids = tokenizer.encode("<|start|>Emma</s>")
    assert Detokenizer(tokenizer).feed(ids) == "Emma"
    assert Detokenizer(tokenizer, skip_special_tokens=False).feed(ids) == "<|start|>Emma</s>"


def test_a_special_token_within_a_character_does_not_break_it() -> None:
    tokenizer = byte_level_tokenizer()
    first, *rest = tokenizer.encode("龙")
    assert Detokenizer(tokenizer).feed([first, tokenizer.encode("</s>")[0], *rest]) == "龙"


def test_a_continuation_keeps_the_space_before_its_first_word() -> None:
    tokenizer = spaced_word_tokenizer()
    ids = tokenizer.encode("Emma was")
    assert Detokenizer(tokenizer).feed(ids) == " Emma was"
    assert Detokenizer(tokenizer, begins_text=True).feed(ids) == "Emma was"


def test_a_space_that_the_text_begins_with_is_not_dropped_where_none_is_put_first() -> None:
    tokenizer = byte_level_tokenizer()
    assert Detokenizer(tokenizer, begins_text=True).feed(tokenizer.encode(" Emma")) == " Emma"


def test_ids_beyond_the_vocabulary_are_no_text() -> None:
    tokenizer = byte_level_tokenizer()
    ids = [*tokenizer.encode("Emma"), tokenizer.vocab_size, tokenizer.vocab_size + 31]
    assert Detokenizer(tokenizer).feed(ids) == "Emma"
