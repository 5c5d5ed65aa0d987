"""A small byte-level vocabulary, the folder and the metadata that hold it, and texts in many scripts.

library = trained()
folder = tokenizer_folder(tmp_path, library, {"eos_token": "</s>"})
gguf_tokenizer(metadata_of(library, pre="smollm"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = [
    "",
    "The quick brown fox jumps over the lazy dog.",
    "It's 1984, and we'LL see 42 cats & 12345678 dogs!",
    "naïve café, Å and e\u0301",
    "日本語のテキスト、中文",
    "Русский язык 123",
    "عربى ١٢٣",
    "हिन्दी में १२३",
    "\n\n  indent\n\tcode = {'a': 1}\r\n\r\n   ",
    "👩‍👩‍👧 and 🎉🎉",
    "<s>user\nhi</s>\n<tool>",
    " leading and trailing ",
    "\0 \x7f \u2581 \ufffd",
]
SPECIAL = ("<s>", "</s>", "<end>")
ADDED = ("<tool>",)


def trained(pre_tokenizer: Any = None) -> Tokenizer:
    """Returns a tokenizer of 400 tokens, three of them special."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(TEXTS * 3, trainer)
    library.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    return library


def tokenizer_folder(folder: Path, library: Tokenizer, config: Mapping[str, Any]) -> Path:
    """Writes tokenizer.json and tokenizer_config.json."""
    library.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", config)
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def metadata_of(library: Tokenizer, *, pre: str, **more: Any) -> dict[str, Any]:
    """Returns what a GGUF file says of a byte-level tokenizer."""
    model = json.loads(library.to_str())["model"]
    by_id = {i: token for token, i in library.get_vocab(with_added_tokens=True).items()}
    tokens = [by_id[i] for i in range(len(by_id))]
    kinds = dict.fromkeys(SPECIAL, 3) | dict.fromkeys(ADDED, 4)
    said = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [kinds.get(token, 1) for token in tokens],
        "merges": [" ".join(merge) for merge in model["merges"]],
        "bos_token_id": library.token_to_id("<s>"),
        "eos_token_id": library.token_to_id("</s>"),
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (said | more).items()}
