"""Masks allow exactly what may follow; texts drawn under them match their constraint and end by an end token."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.constraints.drawing import allowed_ids, drawn_ids, drawn_text, ids_of
from tests.constraints.schema_check import fits
from tests.text.sample_tokenizers import byte_level_tokenizer, spaced_word_tokenizer
from trellax.inference.constraints import ConstraintCompiler
from trellax.inference.requests import Constraint

TOKENIZER = byte_level_tokenizer()
V = (
    TOKENIZER.vocab_size + 41
)  # As models have it whose vocabulary is padded for the hardware; no multiple of 32.
COMPILER = ConstraintCompiler(TOKENIZER, vocab_size=V)

WORDS = spaced_word_tokenizer()
WORDS_V = WORDS.vocab_size
WORDS_COMPILER = ConstraintCompiler(WORDS, vocab_size=WORDS_V)

SCHEMAS: dict[str, Any] = {
    "nested objects": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "home": {
                "type": "object",
                "properties": {"town": {"type": "string"}, "number": {"type": "integer"}},
                "required": ["town"],
                "additionalProperties": False,
            },
        },
        "required": ["name", "home"],
        "additionalProperties": False,
    },
    "enums": {
        "type": "array",
        "items": {"enum": ["Emma", 'a "b"', "é\n", 3, 2.5, None, True]},
        "minItems": 2,
        "maxItems": 4,
    },
    "numbers": {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": -3, "maximum": 120},
            "share": {"type": "number", "minimum": 0, "maximum": 1},
            "any": {"type": "number"},
        },
        "required": ["age", "share", "any"],
        "additionalProperties": False,
    },
    "patterns": {
        "type": "object",
        "properties": {
            "day": {"type": "string", "pattern": "^[0-9]{4}-[01][0-9]$"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}/x"},
        },
        "required": ["day", "code"],
        "additionalProperties": False,
    },
    "references": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "value": {"type": "boolean"},
                    "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                },
                "required": ["value", "left"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "optional and other properties": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": ["string", "null"]}},
        "additionalProperties": {"type": "boolean"},
    },
}


def schema(value: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(value))


# ---- parity -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("ab 👋é", max_size=5), min_size=1, max_size=4, unique=True),
    st.integers(0, 2**32 - 1),
)
def test_masks_of_choices_are_exactly_the_tokens_that_lead_to_one(
    choices: list[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matcher = COMPILER.compile(Constraint("choice", json.dumps(choices)))
    ways, so_far = [choice.encode() for choice in choices], b""
    while True:
        longer = {
            i
            for i in range(TOKENIZER.vocab_size)
            if not TOKENIZER.is_special(i)
            and any(way.startswith(so_far + TOKENIZER.token_bytes(i)) for way in ways)
        }
        ends = TOKENIZER.eos_ids if so_far in ways else set()
        assert set(allowed_ids(matcher, V)) == longer | ends
        assert matcher.is_done() == (not longer and so_far != b"")
        if not longer:
            return
        token = int(rng.choice(sorted(longer)))
        assert matcher.accept(token)
        so_far += TOKENIZER.token_bytes(token)


# ---- properties ---------------------------------------------------------------------------------


@pytest.mark.parametrize("greedy", [False, True], ids=["random", "greedy"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_json_is_valid_under_its_schema(name: str, greedy: bool) -> None:
    for seed in range(4):
        for tokenizer, compiler, size in (
            (TOKENIZER, COMPILER, V),
            (WORDS, WORDS_COMPILER, WORDS_V),
        ):
            matcher = compiler.compile(schema(SCHEMAS[name]))
            text = drawn_text(tokenizer, matcher, vocab_size=size, seed=seed, greedy=greedy)
            assert fits(json.loads(text), SCHEMAS[name]), text


@pytest.mark.parametrize("seed", range(4))
def test_a_json_object_is_one(seed: int) -> None:
    matcher = COMPILER.compile(Constraint("json_object"))
    assert isinstance(json.loads(drawn_text(TOKENIZER, matcher, vocab_size=V, seed=seed)), dict)


@pytest.mark.parametrize(
    "regex",
    [
        "yes|no",
        "^(yes|no)$",
        r"\d{3}-\d{4}",
        "(a|b)*c",
        r'"[^"\n]{1,9}"/x',
        "[äöü👋]{2,5}",
        "(?i)emma( was)?",
        "",
        "#\\{\\}`~ <>",
    ],
)
def test_a_text_matches_its_regular_expression(regex: str) -> None:
    for tokenizer, compiler, size in ((TOKENIZER, COMPILER, V), (WORDS, WORDS_COMPILER, WORDS_V)):
        for seed in range(5):
            matcher = compiler.compile(Constraint("regex", regex))
            text = drawn_text(tokenizer, matcher, vocab_size=size, seed=seed)
            assert re.fullmatch(regex, text), text


def test_a_text_is_of_its_grammar() -> None:
    grammar = 'start: sum\nsum: term ("+" term)*\nterm: /[0-9]{1,3}/ | "(" sum ")"'
    for seed in range(10):
        matcher = COMPILER.compile(Constraint("grammar", grammar))
        text = drawn_text(TOKENIZER, matcher, vocab_size=V, seed=seed)
        assert re.fullmatch("[0-9+()]+", text)
        assert isinstance(eval(re.sub("[0-9]+", "1", text)), int)  # It is a sum in Python, too.


@pytest.mark.parametrize(
    "choices",
    [
        ["yes", "no"],
        ["a", "ab", "abc"],
        ["^$.*+?()[]{}|/\\", 'q"\n\t', r"\d5\\w", "👩‍👩‍👧", "\x7f"],
    ],
)
def test_a_text_is_one_of_its_choices(choices: list[str]) -> None:
    constraint = Constraint("choice", json.dumps(choices))
    texts = {
        drawn_text(TOKENIZER, COMPILER.compile(constraint), vocab_size=V, seed=seed)
        for seed in range(40)
    }
    assert texts == set(choices), "and each is drawn"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.data())
def test_a_rollback_is_as_if_the_tokens_had_not_come(seed: int, data: st.DataObject) -> None:
    constraint = schema(SCHEMAS["nested objects"])
    ids = drawn_ids(TOKENIZER, COMPILER.compile(constraint), vocab_size=V, seed=seed)[:60]
    matcher = COMPILER.compile(constraint)
    masks = [allowed_ids(matcher, V)]
    at = 0
    for _ in range(5):
        to = data.draw(st.integers(at, len(ids)))
        for token in ids[at:to]:
            assert matcher.accept(token)
            masks[at + 1 :] = [allowed_ids(matcher, V)]
            at += 1
        back = data.draw(st.integers(0, at))
        matcher.rollback(back)
        at -= back
        assert allowed_ids(matcher, V) == masks[at]
        assert matcher.is_done() == (set(masks[at]) <= TOKENIZER.eos_ids)


def test_masks_filled_together_are_those_filled_alone() -> None:
    rng = np.random.default_rng(0)
    matchers = [COMPILER.compile(schema(value)) for value in SCHEMAS.values()] * 3
    matchers = [matcher.clone() for matcher in matchers]
    out = np.zeros((len(matchers), -(-V // 32)), np.uint32)
    for _ in range(30):
        COMPILER.fill_masks(matchers, out)
        for matcher, mask in zip(matchers, out):
            allowed = ids_of(mask)
            assert allowed == allowed_ids(matcher, V)
            matcher.accept(int(rng.choice(allowed)))


# ---- cases --------------------------------------------------------------------------------------


def test_rows_without_a_matcher_allow_everything() -> None:
    matcher = COMPILER.compile(Constraint("regex", "a"))
    out = np.zeros((3, -(-V // 32)), np.uint32)
    COMPILER.fill_masks([None, matcher, None], out)
    assert (out[[0, 2]] == 0xFFFFFFFF).all()
    assert ids_of(out[1]) == TOKENIZER.encode("a")
    COMPILER.fill_masks([None], out[:1])
    assert (out[0] == 0xFFFFFFFF).all()


def test_special_tokens_and_ids_that_no_token_has_are_never_allowed() -> None:
    matcher = COMPILER.compile(Constraint("regex", r"[^\n]+"))
    allowed = allowed_ids(matcher, V)
    newline_free = [i for i in range(V) if i < TOKENIZER.vocab_size]
    newline_free = [i for i in newline_free if not TOKENIZER.is_special(i)]
    assert set(allowed) <= set(newline_free)
    assert len(allowed) > 300
    assert not matcher.accept(TOKENIZER.vocab_size + 3)
    assert not matcher.accept(V + 100)
    assert not matcher.accept(TOKENIZER.encode("<|start|>")[0])


def test_a_token_that_is_not_allowed_changes_nothing() -> None:
    matcher = COMPILER.compile(Constraint("regex", "ab"))
    a, b, *_ = TOKENIZER.encode("a") + TOKENIZER.encode("b")
    end = min(TOKENIZER.eos_ids)
    assert not matcher.accept(b)
    assert not matcher.accept(end)
    assert matcher.accept(a)
    assert not matcher.accept(a)
    assert matcher.error is None
    assert allowed_ids(matcher, V) == [b]
    assert matcher.accept(b)
    assert matcher.is_done()
    assert not matcher.accept(b)
    assert matcher.accept(end)
    assert not matcher.accept(end), "nothing follows an end token"
    assert set(allowed_ids(matcher, V)) == TOKENIZER.eos_ids


def test_a_text_that_may_end_may_also_go_on() -> None:
    matcher = COMPILER.compile(Constraint("regex", "[0-9]+"))
    (one,) = TOKENIZER.encode("1")
    assert not TOKENIZER.eos_ids & set(allowed_ids(matcher, V))
    assert matcher.accept(one)
    assert not matcher.is_done()
    assert {one, *TOKENIZER.eos_ids} <= set(allowed_ids(matcher, V))


def test_clones_go_their_own_ways() -> None:
    matcher = COMPILER.compile(Constraint("choice", '["ax", "ay"]'))
    a, x, y = (TOKENIZER.encode(c)[0] for c in "axy")
    assert matcher.accept(a)
    clone = matcher.clone()
    assert matcher.accept(x)
    assert clone.accept(y)
    assert matcher.accept(min(TOKENIZER.eos_ids))
    assert matcher.is_done()
    assert matcher.clone().is_done()
    matcher.rollback(2)
    assert set(allowed_ids(matcher, V)) == {x, y}
    assert set(allowed_ids(clone, V)) == TOKENIZER.eos_ids


def test_white_space_in_json_is_bounded() -> None:
    matcher = COMPILER.compile(schema({"type": "array", "items": {"type": "integer"}}))
    assert matcher.accept(TOKENIZER.encode("[")[0])
    (space,) = TOKENIZER.encode(" ")
    spaces = 0
    while matcher.accept(space):
        spaces += 1
    assert 16 <= spaces <= 64, "enough for indented JSON, and not for ever"
