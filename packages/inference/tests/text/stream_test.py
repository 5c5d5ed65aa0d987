"""Tokens become text up to a stop text, and it is known which tokens that takes."""

from __future__ import annotations

import timeit

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.text.sample_tokenizers import TEXT, byte_level_tokenizer
from trellax.inference.text import Detokenizer, StopWatcher, TextStream

TOKENIZER = byte_level_tokenizer()
IDS = TOKENIZER.encode(TEXT)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 479), max_size=40),
    st.lists(st.sampled_from(["e", "th", " ", "\n\n", "é", "\ufffd", "</s>"]), max_size=3),
    st.lists(st.integers(0, 6), max_size=40),
    st.booleans(),
)
def test_text_and_number_of_tokens_do_not_depend_on_the_calls(
    ids: list[int], stop: list[str], widths: list[int], skip: bool
) -> None:
    by_one = TextStream(TOKENIZER, stop=stop, skip_special_tokens=skip)
    together = TextStream(TOKENIZER, stop=stop, skip_special_tokens=skip)
    singles = [by_one.feed([i]) for i in ids]
    groups, at = [], 0
    for width in [*widths, len(ids)]:
        groups.append(together.feed(ids[at : at + width]))
        at += width
    for pieces, stream in ((singles, by_one), (groups, together)):
        text = "".join(piece.text for piece in pieces) + stream.flush()
        detokenizer = Detokenizer(TOKENIZER, skip_special_tokens=skip)
        watcher = StopWatcher(stop)
        whole = watcher.feed(detokenizer.feed(ids))[0]
        assert text == whole + watcher.feed(detokenizer.flush())[0] + watcher.flush()
    assert sum(p.num_tokens for p in singles) == sum(p.num_tokens for p in groups)


def test_the_token_that_completes_the_stop_is_the_last_one() -> None:
    ids = TOKENIZER.encode("She was the youngest of the two")
    piece = TextStream(TOKENIZER, stop=("young",)).feed(ids)
    assert (piece.text, piece.stopped_by) == ("She was the ", "young")
    needed = next(n for n in range(len(ids)) if "young" in TOKENIZER.decode(ids[:n]))
    assert piece.num_tokens == needed < len(ids)


def test_a_stop_may_span_tokens_and_be_part_of_the_text() -> None:
    stream = TextStream(TOKENIZER, stop=("mother had died",), include_stop=True)
    pieces = [stream.feed([i]) for i in IDS]
    stopped = [p for p in pieces if p.stopped_by is not None]
    assert "".join(p.text for p in pieces) == TEXT[: TEXT.index("died") + 4]
    assert all(p.num_tokens == 0 for p in stopped[1:])


def test_a_stop_among_the_first_tokens_is_passed_over_if_so_many_are_wanted() -> None:
    ids = TOKENIZER.encode("one, two, three")
    before = len(TOKENIZER.encode("one, two"))
    piece = TextStream(TOKENIZER, stop=(",",), min_tokens=before).feed(ids)
    assert (piece.text, piece.stopped_by) == ("one, two", ",")


def test_without_a_stop_what_was_held_back_comes_at_the_end() -> None:
    stream = TextStream(TOKENIZER, stop=("Emma!",))
    assert stream.feed(TOKENIZER.encode("It is Emma")).text == "It is "
    assert stream.flush() == "Emma"


def test_a_stop_text_may_be_a_special_token() -> None:
    ids = TOKENIZER.encode("Yes.<|end|>No.")
    stream = TextStream(TOKENIZER, stop=("<|end|>",), skip_special_tokens=False)
    assert stream.feed(ids)[:2] == ("Yes.", "<|end|>")


def test_a_token_takes_microseconds() -> None:
    """It runs for every token on the engine's thread; the bound is ten times what it takes."""
    stop = ("\n\nUser:", "</s>", "###", "Observation:")
    ids = IDS * 10

    def run() -> None:
        stream = TextStream(TOKENIZER, stop=stop)
        for token in ids:
            stream.feed((token,))

    assert min(timeit.repeat(run, number=1, repeat=3)) / len(ids) < 30e-6
