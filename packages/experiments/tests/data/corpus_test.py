"""The text that ships: complete, clean, and without the held-out novel in training."""

from __future__ import annotations

import importlib.resources
import re

import pytest

from trellax.experiments import data

HEADING = r"(?mi)^(?:VOLUME [IVX]+\s+)?CHAPTER (?:[IVXLC]+|\d+)$"
CHAPTERS = {
    "sense_and_sensibility": 50,
    "pride_and_prejudice": 61,
    "mansfield_park": 48,
    "emma": 55,
    "northanger_abbey": 31,
    "persuasion": 24,
}


def read(name: str) -> str:
    folder = importlib.resources.files(data)
    return (folder / f"{name}.txt").read_text(encoding="ascii")


@pytest.mark.parametrize(("name", "chapters"), CHAPTERS.items())
def test_every_novel_is_whole(name: str, chapters: int) -> None:
    text = read(name)
    assert len(re.findall(HEADING, text)) == chapters
    assert re.sub(r"\W+", " ", text.lower()).startswith(name.replace("_", " "))
    assert len(text) > 430_000


@pytest.mark.parametrize("name", CHAPTERS)
def test_nothing_of_later_editors_is_left(name: str) -> None:
    assert not re.search(r"Signet|A NOTE ON THE TEXT|edition\.$|Gutenberg|\r", read(name), re.M)


def test_the_folder_says_what_it_holds() -> None:
    readme = (importlib.resources.files(data) / "README.md").read_text()
    for name, chapters in CHAPTERS.items():
        (row,) = re.findall(rf"^\| `{name}\.txt`.*$", readme, re.M)
        assert f" {chapters} |" in row
        assert f"{len(read(name)):,}" in row
    assert HEADING in readme
