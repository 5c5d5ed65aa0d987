"""Tokenizers of GGUF metadata: the library's ids for byte-level vocabularies, SentencePiece's for the others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from tests.pretrained_tokenizer.samples import TEXTS, metadata_of, trained
from trellax.runtime.pretrained_tokenizer import TokenizerError, gguf_tokenizer

# How the texts of published models are split: what transformers' tokenizers give.
WORDS = {
    "gpt-2": [" we", "'", "LL", " 12345", ",", "  ", " x", "\n\n"],
    "smollm": [" we", "'", "LL", " ", "1", "2", "3", "4", "5", ",", "  ", " x", "\n\n"],
    "llama-bpe": [" we", "'LL", " ", "123", "45", ",", "  ", " x", "\n\n"],
    "qwen2": [" we", "'LL", " ", "1", "2", "3", "4", "5", ",", "  ", " x", "\n\n"],
}

# ---- byte-level --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", WORDS)
def test_texts_are_split_as_the_model_was_trained(pre: str) -> None:
    tokenizer = gguf_tokenizer(metadata_of(trained(), pre=pre))
    pieces = tokenizer._library.pre_tokenizer.pre_tokenize_str(" we'LL 12345,   x\n\n")
    shown = [piece.replace("Ġ", " ").replace("Ċ", "\n") for piece, _ in pieces]
    assert shown == WORDS[pre]


def test_ids_are_those_of_the_library() -> None:
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library = trained(pre_tokenizers.Sequence([digits, words]))
    tokenizer = gguf_tokenizer(metadata_of(library, pre="smollm"))
    for text in TEXTS:
        ids = tokenizer.encode(text).tolist()
        assert ids == library.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_metadata_say_what_begins_and_ends_a_text() -> None:
    said = metadata_of(trained(), pre="smollm", eot_token_id=2, padding_token_id=1)
    tokenizer = gguf_tokenizer(said | {"tokenizer.chat_template": "template"})
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.eos_ids) == (0, 1, frozenset({1, 2}))
    assert tokenizer.special_tokens["pad_token"] == "</s>"
    assert tokenizer.chat_template == "template"
    assert tokenizer.is_special(2) and not tokenizer.is_special(400)
    assert tokenizer.encode("hi<tool>").tolist()[-1] == 400


@pytest.mark.parametrize(
    ("pre", "said", "begins"),
    [
        ("smollm", None, False),
        ("smollm", True, True),
        ("llama-bpe", None, True),
        ("llama-bpe", False, False),
    ],
)
def test_texts_begin_with_a_token_where_the_model_wants_it(
    pre: str, said: Any, begins: bool
) -> None:
    more = {} if said is None else {"add_bos_token": said}
    tokenizer = gguf_tokenizer(metadata_of(trained(), pre=pre, **more))
    assert (tokenizer.encode("hi", add_special_tokens=True)[0] == 0) == begins


# ---- SentencePiece -----------------------------------------------------------------------------------

PIECES = [
    "▁t",
    "he",
    "▁the",
    "in",
    "re",
    "▁a",
    "er",
    "on",
    "▁in",
    "the",
    "an",
    "▁there",
    "ere",
    "▁▁",
]


def pieces_metadata(**more: Any) -> dict[str, Any]:
    """Returns a vocabulary: three controls, bytes, pieces of falling scores, then single characters."""
    letters = sorted(set("".join(PIECES)) | set("bdouwé"))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *PIECES, *letters]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]
    said = {
        "model": "llama",
        "tokens": tokens,
        "token_type": types,
        "scores": [0.0] * 259 + [float(-i) for i in range(len(tokens) - 259)],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (said | more).items()}


def best_pairs_first(text: str, metadata: Mapping[str, Any]) -> list[str]:
    """Splits a text as SentencePiece's BPE is defined: the neighbours whose union scores best become one, leftmost first."""
    scores = dict(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]))
    parts = list("▁" + text.replace(" ", "▁")) if text else []
    while True:
        pairs = [
            (scores[a + b], -i)
            for i, (a, b) in enumerate(itertools.pairwise(parts))
            if a + b in scores
        ]
        if not pairs:
            return parts
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@settings(deadline=None)
@given(st.text(alphabet="there in a onbdé 日", max_size=20))
def test_sentence_pieces_are_those_of_the_definition(text: str) -> None:
    metadata = pieces_metadata()
    tokens = metadata["tokenizer.ggml.tokens"]
    expected: list[int] = []
    for part in best_pairs_first(text, metadata):
        known = [tokens.index(part)] if part in tokens else [3 + byte for byte in part.encode()]
        expected += known
    tokenizer = PIECES_TOKENIZER
    ids = tokenizer.encode(text).tolist()
    assert ids == expected
    assert tokenizer.decode(ids) == text
    joined = b"".join(map(tokenizer.token_bytes, ids)).decode()
    assert joined == (f" {text}" if text else "")


PIECES_TOKENIZER = gguf_tokenizer(pieces_metadata())


def test_sentence_pieces_begin_with_a_token_and_can_go_without_a_space() -> None:
    ids = PIECES_TOKENIZER.encode("the", add_special_tokens=True).tolist()
    assert [PIECES_TOKENIZER.token_bytes(i) for i in ids[1:]] == [b" the"] and ids[0] == 1
    bare = gguf_tokenizer(pieces_metadata(add_space_prefix=False))
    assert [bare.token_bytes(i) for i in bare.encode("the").tolist()] == [b"the"]
    assert bare.decode(bare.encode(" the")) == " the"


def test_bytes_that_are_no_piece_fall_back_to_byte_tokens() -> None:
    ids = PIECES_TOKENIZER.encode("\n").tolist()
    assert PIECES_TOKENIZER.token_bytes(ids[-1]) == b"\n"


# ---- mistakes ----------------------------------------------------------------------------------------


def test_kinds_that_are_not_implemented_are_refused_by_name() -> None:
    said = metadata_of(trained(), pre="smollm")
    with pytest.raises(TokenizerError, match="model is 'bert'; supported: gpt2, llama"):
        gguf_tokenizer(said | {"tokenizer.ggml.model": "bert"})
    with pytest.raises(TokenizerError, match=r"pre is 'tekken'; supported: .*smollm"):
        gguf_tokenizer(said | {"tokenizer.ggml.pre": "tekken"})


def test_a_damaged_vocabulary_is_refused() -> None:
    said = metadata_of(trained(), pre="smollm", merges=["x y", "zz top"])
    with pytest.raises(TokenizerError, match=r"m.gguf: the vocabulary is damaged"):
        gguf_tokenizer(said, source="m.gguf")
