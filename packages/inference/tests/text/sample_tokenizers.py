"""Small real tokenizers: byte-level BPE as in GPT-2 (of all bytes, or of ASCII), and words with their space as in Llama 2.

tokenizer = byte_level_tokenizer()
tokenizer.encode("She was")
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
_FIRST = ("<s>", "</s>", "<|start|>", "<|end|>")

# The opening of Emma, by Jane Austen (1815), and a little of what else there is to encode.
TEXT = """\
Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition, seemed to unite some of
the best blessings of existence; and had lived nearly twenty-one years in the world with very little to distress or
vex her. She was the youngest of the two daughters of a most affectionate, indulgent father; and had, in consequence
of her sister's marriage, been mistress of his house from a very early period. Her mother had died too long ago for
her to have more than an indistinct remembrance of her caresses; and her place had been supplied by an excellent
woman as governess, who had fallen little short of a mother in affection.
{"name": "Emma", "age": 21, "sisters": ["Isabella"], "married": false, "house": null, "ratio": -1.5e3}
Où est-elle née? Ça dépend. Ein Schloß, groß und schön. Привет, мир! 你好,世界。こんにちは 👋🏽 👩‍👩‍👧
"""


class SampleTokenizer:
    """A tokenizer of the `tokenizers` library as `trellax.inference.text.Tokenizer`."""

    def __init__(
        self,
        library: tokenizers.Tokenizer,
        *,
        bytes_of: Callable[[str], bytes],
        chat_template: str | None = None,
    ):
        self._library = library
        self._specials = {
            i: token.content
            for i, token in library.get_added_tokens_decoder().items()
            if token.special
        }
        self.vocab_size: int = library.get_vocab_size()
        self._bytes = [
            self._specials[i].encode() if i in self._specials else bytes_of(token)
            for token, i in sorted(library.get_vocab().items(), key=lambda item: item[1])
        ]
        vocab = library.get_vocab()
        self.bos_id: int | None = vocab["<s>"]
        self.eos_ids = frozenset({vocab["</s>"], vocab["<|end|>"]})
        self.chat_template = chat_template
        self.special_tokens = SPECIAL_TOKENS

    def encode(
        self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True
    ) -> list[int]:
        self._library.encode_special_tokens = not parse_special
        return self._library.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self._library.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes[token_id]

    def is_special(self, token_id: int) -> bool:
        return token_id in self._specials

    def to_json(self) -> str:
        return self._library.to_str()


@functools.cache
def byte_level_tokenizer(chat_template: str | None = None) -> SampleTokenizer:
    """Returns one whose tokens are sequences of bytes; it puts "<s>" before a text when asked to."""
    return _byte_level(TEXT, pre_tokenizers.ByteLevel.alphabet(), 480, chat_template)


@functools.cache
def ascii_tokenizer(chat_template: str | None = None) -> SampleTokenizer:
    """Returns one of printable ASCII only: whatever tokens a model draws, they are a text."""
    text = "".join(line for line in TEXT.splitlines(keepends=True) if line.isascii())
    letters = {name for name, byte in _byte_of_character().items() if 32 <= byte < 127}
    return _byte_level(text, letters, 280, chat_template)


def _byte_level(
    text: str, alphabet: Iterable[str], vocab_size: int, chat_template: str | None
) -> SampleTokenizer:
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_FIRST),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    library.train_from_iterator(text.splitlines(), trainer)
    _add_specials(library)
    byte_of = _byte_of_character()
    return SampleTokenizer(
        library,
        bytes_of=lambda token: bytes(byte_of[c] for c in token),
        chat_template=chat_template,
    )


@functools.cache
def spaced_word_tokenizer(chat_template: str | None = None) -> SampleTokenizer:
    """Returns one that writes "▁" for the space before a word, the first one's too, and bytes of rare characters."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = normalizer
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=300, limit_alphabet=60, show_progress=False)
    trained.train_from_iterator(TEXT.splitlines(), trainer)
    merges = json.loads(trained.to_str())["model"]["merges"]
    words = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    vocab = ["<unk>", *_FIRST, *(f"<0x{b:02X}>" for b in range(256)), *words]
    library = tokenizers.Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(vocab)},
            [tuple(merge) for merge in merges],
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    library.normalizer = normalizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1, right=0)])
    _add_specials(library)
    return SampleTokenizer(library, bytes_of=_bytes_of_word, chat_template=chat_template)


def _add_specials(library: tokenizers.Tokenizer) -> None:
    library.add_special_tokens(list(_FIRST))
    begin = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", library.token_to_id("<s>"))]
    )
    library.post_processor = begin


def _bytes_of_word(token: str) -> bytes:
    if re.fullmatch("<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def _byte_of_character() -> dict[str, int]:
    """Returns GPT-2's names of bytes: printable Latin-1 is itself, the rest follows from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
