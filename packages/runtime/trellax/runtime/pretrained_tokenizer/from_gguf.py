"""Tokenizers that GGUF metadata describe: byte-level BPE ("gpt2") and SentencePiece's BPE ("llama").

    tokenizer = gguf_tokenizer(file.metadata, source="model.gguf")

Metadata hold the vocabulary; how texts are split before merging goes by a name, `tokenizer.ggml.pre`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trellax.runtime.pretrained_tokenizer.parts import TokenizerError, TokenizerParts
from trellax.runtime.pretrained_tokenizer.token_bytes import METASPACE
from trellax.runtime.pretrained_tokenizer.tokenizer import PretrainedTokenizer

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_SPECIAL_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")

# How words are found. Llama 3 takes digits by threes, Qwen 2 one by one.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_SPLITS = {
    "default": "gpt-2",
    "gpt-2": "gpt-2",
    "gpt2": "gpt-2",
    "llama-bpe": "llama-bpe",
    "llama3": "llama-bpe",
    "qwen2": "qwen2",
    "smollm": "smollm",
}


def gguf_tokenizer(metadata: Mapping[str, Any], *, source: str = "GGUF") -> PretrainedTokenizer:
    """Returns the tokenizer of a GGUF file.

    Args:
        metadata: of the file.
        source: what to call it in messages.

    Raises:
        TokenizerError: naming a kind that is not implemented, and those that are.
    """
    ours = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    kind = ours.get("model")
    makers = {"gpt2": _byte_level, "llama": _sentence_pieces}
    if kind not in makers:
        raise TokenizerError(
            f"{source}: tokenizer.ggml.model is {kind!r}; supported: {', '.join(makers)}."
        )
    library, adds_bos = makers[kind](ours, source)
    _add_special(library, ours)
    tokens = ours["tokens"]
    special = {name: tokens[ours[key]] for name, key in _SPECIAL_KEYS.items() if key in ours}
    return PretrainedTokenizer.of(
        TokenizerParts(
            library=library,
            source=source,
            special_tokens=special,
            eos_ids=frozenset(ours[key] for key in _END_KEYS if key in ours),
            chat_template=metadata.get("tokenizer.chat_template"),
            adds_bos=ours.get("add_bos_token", adds_bos),
            adds_eos=ours.get("add_eos_token", False),
        )
    )


def _byte_level(ours: Mapping[str, Any], source: str) -> tuple[Any, bool]:
    """Returns the library's tokenizer, and whether texts begin with a token unless the file says otherwise."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    name = ours.get("pre", "default")
    if name not in _SPLITS:
        raise TokenizerError(
            f"{source}: tokenizer.ggml.pre is {name!r}; supported: {', '.join(sorted(_SPLITS))}."
        )
    split = _SPLITS[name]
    vocabulary = _vocabulary(ours["tokens"])
    merges = [tuple(merge.split(" ")) for merge in ours["merges"]]
    is_llama = split == "llama-bpe"
    try:
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=is_llama)
    except Exception as e:  # The library raises plain Exception.
        raise TokenizerError(f"{source}: the vocabulary is damaged ({e}).") from None
    library = Tokenizer(model)
    if split == "qwen2":
        library.normalizer = normalizers.NFC()
    library.pre_tokenizer = _splitting(split)
    library.decoder = decoders.ByteLevel()
    return library, is_llama


def _splitting(split: str) -> Any:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if split == "gpt-2":
        return ByteLevel(add_prefix_space=False)
    if split == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    digits = r"\p{N}{1,3}" if split == "llama-bpe" else r"\p{N}"
    words = Split(Regex(_WORDS.format(digits=digits)), "isolated")
    return Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])


def _sentence_pieces(ours: Mapping[str, Any], source: str) -> tuple[Any, bool]:
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens, types = ours["tokens"], ours["token_type"]
    unknown = tokens[types.index(_UNKNOWN)] if _UNKNOWN in types else None
    model = models.BPE(
        vocab=_vocabulary(tokens),
        merges=_merges_by_score(tokens, ours["scores"]),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    library = Tokenizer(model)
    replace = normalizers.Replace(" ", METASPACE)
    has_prefix = ours.get("add_space_prefix", True)
    steps = [normalizers.Prepend(METASPACE), replace] if has_prefix else [replace]
    library.normalizer = normalizers.Sequence(steps)
    restore = [decoders.Replace(METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    library.decoder = decoders.Sequence(restore + strip)
    return library, True


def _merges_by_score(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Returns the merges that give each token of the pairs of tokens that it is made of, best scores first."""
    score_of = dict(zip(tokens, scores))
    merges = [
        (-score, -cut, token[:cut], token[cut:])
        for token, score in score_of.items()
        for cut in range(1, len(token))
        if token[:cut] in score_of and token[cut:] in score_of
    ]
    return [(left, right) for _, _, left, right in sorted(merges, key=lambda m: m[:2])]


def _vocabulary(tokens: Sequence[str]) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(tokens)}


def _add_special(library: Any, ours: Mapping[str, Any]) -> None:
    from tokenizers import AddedToken

    typed = list(zip(ours["tokens"], ours.get("token_type", ())))
    library.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in typed if kind == _CONTROL]
    )
    library.add_tokens(
        [AddedToken(t, normalized=False) for t, kind in typed if kind == _USER_DEFINED]
    )
