"""A text ends where a stop text is complete first, however it was cut; nothing is held back longer than needed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trellax.inference.text import StopWatcher

SHORT = st.text("ab", max_size=24)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4).map(tuple)


def expected(text: str, stop: tuple[str, ...], *, include: bool) -> tuple[str, str | None]:
    """Returns the text and what stops it: of those complete first, the longest."""
    for end in range(len(text) + 1):
        found = [s for s in stop if text[:end].endswith(s)]
        if found:
            longest = max(found, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


def held_back(text: str, stop: tuple[str, ...]) -> int:
    """Returns the length of the longest end of `text` that may become a stop text."""
    lengths = range(min(len(text), max(map(len, stop)) - 1), 0, -1)
    return next((n for n in lengths if any(s.startswith(text[-n:]) for s in stop)), 0)


@settings(max_examples=500, deadline=None)
@given(st.lists(SHORT, max_size=6), STOPS, st.booleans())
def test_the_text_ends_at_the_stop_that_is_complete_first(
    texts: list[str], stop: tuple[str, ...], include: bool
) -> None:
    watcher = StopWatcher(stop, include_stop=include)
    got = "".join(watcher.feed(piece)[0] for piece in texts)
    text, stopped_by = expected("".join(texts), stop, include=include)
    assert watcher.stopped_by == stopped_by
    assert got + watcher.flush() == text


@settings(max_examples=500, deadline=None)
@given(st.lists(SHORT, min_size=1, max_size=6), STOPS)
def test_exactly_what_may_become_a_stop_is_held_back(
    texts: list[str], stop: tuple[str, ...]
) -> None:
    watcher, seen, passed = StopWatcher(stop), "", ""
    for piece in texts:
        text, stopped_by = watcher.feed(piece)
        seen, passed = seen + piece, passed + text
        if stopped_by is not None:
            return
        assert len(seen) - len(passed) == held_back(seen, stop)


@pytest.mark.parametrize(
    ("stop", "text", "kept", "by"),
    [
        (("User:",), "Hello.\nUser: hm", "Hello.\n", "User:"),
        (("abcd", "bc"), "abcd", "a", "bc"),
        (("bc", "abc"), "xabc", "x", "abc"),
        (("aab",), "aaab", "a", "aab"),
        (("é",), "né", "n", "é"),
        (("x", "x"), "axb", "a", "x"),
        (("end",), "no such thing: en", "no such thing: en", None),
    ],
)
def test_what_stops_a_text(stop: tuple[str, ...], text: str, kept: str, by: str | None) -> None:
    watcher = StopWatcher(stop)
    passed = "".join(watcher.feed(character)[0] for character in text)
    assert (passed + watcher.flush(), watcher.stopped_by) == (kept, by)


def test_text_after_the_stop_is_dropped() -> None:
    watcher = StopWatcher(("\n",), include_stop=True)
    assert watcher.feed("one\ntwo") == ("one\n", "\n")
    assert watcher.feed("three") == ("", "\n")
    assert watcher.flush() == ""


def test_time_grows_with_the_text_and_not_with_the_stops() -> None:
    """Stop texts that a rescan of what is held back would take hours for."""
    stop = tuple("a" * n + "b" for n in (20_000, 15_000, 5_000))
    start = time.perf_counter()
    watcher = StopWatcher(stop)
    passed = sum(len(watcher.feed("a" * 10)[0]) for _ in range(10_000))
    assert passed == 100_000 - 20_000
    assert time.perf_counter() - start < 5
