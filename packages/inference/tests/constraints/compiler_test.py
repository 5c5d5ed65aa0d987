"""Constraints of clients become matchers or errors with the reason, within bounds, once for many requests."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.constraints.drawing import allowed_ids, drawn_text
from tests.text.sample_tokenizers import byte_level_tokenizer
from trellax.inference.constraints import ConstraintCompiler, ConstraintLimits
from trellax.inference.requests import Constraint, RequestError

TOKENIZER = byte_level_tokenizer()
V = TOKENIZER.vocab_size
COMPILER = ConstraintCompiler(TOKENIZER, vocab_size=V)


def schema(value: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(value))


def nested(depth: int) -> str:
    return '{"type":"object","properties":{"a":' * depth + "true" + "}}" * depth


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "complaint"),
    [
        (Constraint("json_schema", "{"), "The JSON schema cannot be used: it is no JSON"),
        (Constraint("json_schema", "[]"), "a schema must be an object"),
        (schema(False), "a schema must be an object"),
        (schema({"type": "strin"}), "strin"),
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (schema({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}), "unique"),
        (schema({"x-guidance": 3}), "x-guidance must be an object"),
        (schema({"$ref": "#/$defs/missing"}), "missing"),
        (schema({"$ref": "https://example.com/schema.json"}), "example.com"),
        (schema({"$ref": "file:///etc/hosts"}), "cannot be used"),
        (schema({"type": "string", "minLength": 5, "maxLength": 3}), "minLength"),
        (schema({"type": "string", "pattern": "("}), "cannot be used"),
        (schema({"$ref": "#"}), "no text matches it"),
        (Constraint("regex", "[a"), "The regular expression cannot be used: .*unclosed"),
        (Constraint("regex", "(?=a)b"), "look-around"),
        (Constraint("regex", r"(a)\1"), "backreferences"),
        (Constraint("regex", "\ud800"), "surrogates"),
        (Constraint("grammar", "start: x"), r"The grammar cannot be used: at 1\(8\): .*x"),
        (Constraint("grammar", ""), "The grammar cannot be used"),
        (Constraint("choice", "[]"), "The list of choices cannot be used"),
        (Constraint("choice", '["a", 3]'), "at least one string"),
        (Constraint("choice", '{"a": 3}'), "at least one string"),
        (Constraint("choice", "a"), "no JSON"),
    ],
)
def test_a_bad_constraint_is_refused_with_the_reason(
    constraint: Constraint, complaint: str
) -> None:
    for _ in range(2):  # The second time from what was kept.
        with pytest.raises(RequestError, match=complaint) as error:
            COMPILER.compile(constraint, param="guided")
        assert error.value.param == "guided"
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400


def test_errors_are_of_the_response_format_unless_said_otherwise() -> None:
    with pytest.raises(RequestError) as error:
        COMPILER.compile(Constraint("regex", "("))
    assert error.value.param == "response_format"


# ---- bounds -------------------------------------------------------------------------------------


HOSTILE = {
    "deep nesting": Constraint("json_schema", nested(5_000)),
    "deeper than the interpreter": Constraint("json_schema", '{"not":' * 100_000),
    "deep list": Constraint("choice", "[" * 100_000),
    "deep groups": Constraint("regex", "(" * 50_000 + "a" + ")" * 50_000),
    "too long": Constraint("regex", "a|" * 200_000),
    "nested repeats": Constraint("regex", "(a{1,1000}){1,1000}"),
    "a long forced text": Constraint("regex", "a{1000000000}"),
    "a long constant": schema({"const": "abc " * 40_000}),
    "states without end": Constraint("regex", ".*(a.{20}b|c.{30}d|e.{40}f).*"),
    "look far ahead": Constraint("regex", "(a|b)*a(a|b){300}"),
    "loops of nothing": Constraint("regex", "((((a*)*)*)*)*b"),
    "many properties": schema({"properties": {f"p{i}": {"type": "string"} for i in range(3_000)}}),
    "exponential references": schema(
        {"$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}}
        | {"$ref": "#/$defs/d0"}
    ),
    "circular references": schema(
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    ),
    "a large product": schema(
        {"allOf": [{"anyOf": [{"required": [f"a{i}{j}"]} for j in range(6)]} for i in range(12)]}
    ),
    "many items": schema({"type": "array", "minItems": 1_000_000, "items": {"const": "a"}}),
    "ambiguity": Constraint("grammar", 'start: start start | "a" | ""'),
    "deep grammar": Constraint("grammar", "start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "right recursion": Constraint("grammar", 'start: "a" start'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_constraint_is_refused_or_costs_little(name: str) -> None:
    """Measured in processor time, which other processes do not add to."""
    start = time.process_time()
    try:
        matcher = COMPILER.compile(HOSTILE[name])
    except RequestError:
        assert time.process_time() - start < 5
        return
    assert time.process_time() - start < 5
    rng = np.random.default_rng(0)
    start = time.process_time()
    for _ in range(50):
        allowed = allowed_ids(matcher, V)
        assert allowed, "an end token, if nothing else"
        matcher.accept(int(rng.choice(allowed)))
    assert time.process_time() - start < 5, "a token takes 100 ms at most, and usually far less"


def test_a_grammar_that_becomes_too_complex_says_so_and_ends() -> None:
    limits = ConstraintLimits(max_lexer_states=200)
    compiler = ConstraintCompiler(TOKENIZER, vocab_size=V, limits=limits)
    matcher = compiler.compile(Constraint("regex", ".*(a.{20}b|c.{30}d).*"))
    (a,) = TOKENIZER.encode("a")
    steps = 0
    while matcher.error is None:
        allowed_ids(matcher, V)
        matcher.accept(a)
        steps += 1
        assert steps < 200
    assert "states" in matcher.error
    assert set(allowed_ids(matcher, V)) == TOKENIZER.eos_ids
    assert not matcher.accept(a)
    assert matcher.is_done()
    out = np.zeros((2, -(-V // 32)), np.uint32)
    compiler.fill_masks([matcher, compiler.compile(Constraint("regex", "a"))], out)
    assert bin(int(out[1].sum())).count("1") == 1, "others are not disturbed"


# ---- keeping ------------------------------------------------------------------------------------


def test_a_constraint_is_compiled_once() -> None:
    constraint = Constraint("choice", json.dumps([f"choice {i}" for i in range(5_000)]))
    start = time.process_time()
    COMPILER.compile(constraint)
    first = time.process_time() - start
    start = time.process_time()
    COMPILER.compile(constraint)
    assert time.process_time() - start < first / 5


def test_what_was_not_used_for_longest_is_forgotten() -> None:
    compiler = ConstraintCompiler(TOKENIZER, vocab_size=V, cache_size=2)
    large = Constraint("choice", json.dumps([f"choice {i}" for i in range(5_000)]))
    seconds = []
    for constraints in ([large], ["a"], [large], ["b"], [large], ["c", "d"], [large]):
        start = time.process_time()
        for c in constraints:
            compiler.compile(c if isinstance(c, Constraint) else Constraint("regex", c))
        seconds.append(time.process_time() - start)
    assert max(seconds[2], seconds[4]) < min(seconds[0], seconds[6]) / 5


def test_matchers_of_one_constraint_are_independent() -> None:
    constraint = Constraint("regex", "[ab]c")
    first, second = COMPILER.compile(constraint), COMPILER.compile(constraint)
    assert first.accept(TOKENIZER.encode("a")[0])
    assert allowed_ids(first, V) != allowed_ids(second, V)


def test_threads_may_compile_at_once() -> None:
    constraints = [Constraint("choice", json.dumps([f"{i}", f"x{i}"])) for i in range(8)] * 4
    with ThreadPoolExecutor(8) as pool:
        matchers = list(pool.map(COMPILER.compile, constraints))
    for i, matcher in enumerate(matchers):
        text = drawn_text(TOKENIZER, matcher, vocab_size=V, seed=i)
        assert text in json.loads(constraints[i].text)


# ---- tokenizers ---------------------------------------------------------------------------------


def test_a_model_with_fewer_logits_than_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=f"ids up to {V - 1} and the model {V - 1} logits"):
        ConstraintCompiler(TOKENIZER, vocab_size=V - 1)


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ImportError, match=r"trellax-inference\[constraints\]"):
        ConstraintCompiler(TOKENIZER, vocab_size=V)
