"""What clients send as a prompt becomes token ids that the model has, or an error that says what is wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.text.sample_tokenizers import byte_level_tokenizer, spaced_word_tokenizer
from trellax.inference.requests import RequestError
from trellax.inference.text import PromptBuilder

TEMPLATE = "{{ bos_token }}{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}"
TOKENIZER = byte_level_tokenizer(TEMPLATE)
BOS = TOKENIZER.bos_id
PROMPTS = PromptBuilder(TOKENIZER, vocab_size=512, max_tokens=40, max_prompts=3)


def test_a_text_begins_with_the_token_that_the_tokenizer_puts_there() -> None:
    (ids,) = PROMPTS.completion("She was")
    assert ids == (BOS, *TOKENIZER.encode("She was"))
    assert PROMPTS.completion("She was", add_special_tokens=False) == [ids[1:]]


def test_a_list_of_texts_is_a_list_of_prompts() -> None:
    assert PROMPTS.completion(["She", "He"]) == [
        *PROMPTS.completion("She"),
        *PROMPTS.completion("He"),
    ]


def test_token_ids_are_taken_as_they_are() -> None:
    assert PROMPTS.completion([5, 0, 511]) == [(5, 0, 511)]
    assert PROMPTS.completion([[5], [0, 511]]) == [(5,), (0, 511)]


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        (None, "prompt must be a text"),
        (7, "prompt must be a text"),
        ({"text": "a"}, "prompt must be a text"),
        ([], "prompt must be a text"),
        ([[]], "prompt[0] must be at least one token"),
        ([[1], []], "prompt[1] must be at least one token"),
        ([1, "a"], "prompt must be a text or a list of token ids"),
        (["a", 1], "prompt[1] must be a text or a list of token ids"),
        ([True], "prompt[0] must be a text or a list of token ids"),
        ([[1.0]], "prompt[0] must be a text or a list of token ids"),
        ([[[1]]], "prompt[0] must be a text or a list of token ids"),
        ([512], "prompt must be token ids from 0 to 511, not 512"),
        ([[3], [4, -1]], "prompt[1] must be token ids from 0 to 511, not -1"),
        ([10**30], "not 1000000"),
        (["a"] * 4, "prompt must be at most 3 prompts, not 4"),
        ([1] * 41, "prompt must be at most 40 tokens; it has 41"),
        ("ab \ud800", "prompt must be Unicode text; character 3"),
    ],
)
def test_what_is_no_prompt_is_refused_with_the_reason(prompt: Any, complaint: str) -> None:
    with pytest.raises(RequestError, match=re.escape(complaint)) as error:
        PROMPTS.completion(prompt)
    assert error.value.param == "prompt"


def test_errors_call_the_field_as_the_client_does() -> None:
    with pytest.raises(
        RequestError, match=re.escape("input[1] must be at least one token")
    ) as error:
        PROMPTS.completion([[1], []], param="input")
    assert error.value.param == "input"


def test_a_text_without_tokens_is_refused() -> None:
    assert PROMPTS.completion("") == [(BOS,)]
    with pytest.raises(RequestError, match="at least one token"):
        PROMPTS.completion("", add_special_tokens=False)


def test_a_chat_has_the_templates_special_tokens_and_no_others() -> None:
    ids = PROMPTS.chat([{"role": "user", "content": "She was"}])
    start, end = (TOKENIZER.encode(token)[0] for token in ("<|start|>", "<|end|>"))
    assert ids == (BOS, start, *TOKENIZER.encode("She was"), end)


def test_a_chat_that_is_too_long_is_refused() -> None:
    with pytest.raises(RequestError, match="at most 40 tokens") as error:
        PROMPTS.chat([{"role": "user", "content": "x" * 100}])
    assert error.value.param == "messages"


def test_half_a_surrogate_pair_in_a_chat_is_refused() -> None:
    with pytest.raises(RequestError, match="half of a pair"):
        PROMPTS.chat([{"role": "user", "content": "\udc00"}])


def test_a_model_without_a_template_still_completes() -> None:
    prompts = PromptBuilder(spaced_word_tokenizer(), vocab_size=1000, max_tokens=40)
    assert prompts.completion("Emma")[0][0] == spaced_word_tokenizer().bos_id
    with pytest.raises(RequestError, match="no chat template"):
        prompts.chat([{"role": "user", "content": "Hi."}])
