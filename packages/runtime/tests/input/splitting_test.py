"""Rules that cut texts into documents."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellax.config import ConfigError
from trellax.runtime.input import AtHeadings, AtSeparators, ParagraphGroups, WholeText

BOOK = "Title\n\nCHAPTER 1\n\nOne.\n\nStill one.\n\nCHAPTER 2\nTwo.\n"


def split(cfg: Any, text: str) -> list[str]:
    return cfg.instantiate().split(text)


def test_a_whole_text_is_one_document() -> None:
    assert split(WholeText.default_config(), BOOK) == [BOOK.strip()]
    assert split(WholeText.default_config(), " \n") == []


def test_headings_begin_documents() -> None:
    cfg = AtHeadings.default_config().set(heading=r"^CHAPTER \d+$")
    assert split(cfg, BOOK) == [
        "Title",
        "CHAPTER 1\n\nOne.\n\nStill one.",
        "CHAPTER 2\nTwo.",
    ]


def test_a_text_that_begins_with_a_heading_has_no_empty_document() -> None:
    cfg = AtHeadings.default_config().set(heading=r"^CHAPTER \d+$")
    assert split(cfg, "CHAPTER 1\na\nCHAPTER 2\nb") == ["CHAPTER 1\na", "CHAPTER 2\nb"]


def test_separators_are_dropped() -> None:
    assert split(AtSeparators.default_config(), "a\n<|endoftext|>\nb\n") == ["a", "b"]
    cfg = AtSeparators.default_config().set(separator="-+")
    assert split(cfg, "a--b---c") == ["a", "b", "c"]


def test_paragraphs_are_grouped_until_long_enough() -> None:
    text = "aaa\n\nbbb\n \nccc\n\n\n\nd"
    assert split(ParagraphGroups.default_config().set(min_characters=1), text) == [
        *("aaa", "bbb", "ccc", "d")
    ]
    assert split(ParagraphGroups.default_config().set(min_characters=5), text) == [
        "aaa\n\nbbb",
        "ccc\n\n\n\nd",
    ]


@given(st.text("ab \n-", max_size=80), st.integers(1, 20))
def test_no_rule_loses_a_letter_or_gives_an_empty_document(text: str, length: int) -> None:
    for cfg in (
        WholeText.default_config(),
        AtHeadings.default_config().set(heading="^a"),
        AtSeparators.default_config().set(separator="-"),
        ParagraphGroups.default_config().set(min_characters=length),
    ):
        documents = split(cfg, text)
        assert all(d and d == d.strip() for d in documents)
        letters = [c for d in documents for c in d if c in "ab"]
        assert letters == [c for c in text if c in "ab"]


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (AtHeadings.default_config().set(heading="("), "not a regular expression"),
        (AtSeparators.default_config().set(separator="["), "not a regular expression"),
        (ParagraphGroups.default_config().set(min_characters=0), "must be positive"),
    ],
)
def test_bad_rules_are_refused(cfg: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cfg.instantiate()
