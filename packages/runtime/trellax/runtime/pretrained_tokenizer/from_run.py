"""The tokenizer that a run was trained with, as a `PretrainedTokenizer`, so that its checkpoints can be served.

tokenizer = as_pretrained(trainer_cfg.input.tokenizer.instantiate())
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from trellax.runtime.input import BpeTokenizer, ByteTokenizer, FileTokenizer, Tokenizer
from trellax.runtime.pretrained_tokenizer.folder import library_from_file
from trellax.runtime.pretrained_tokenizer.parts import TokenizerError, TokenizerParts
from trellax.runtime.pretrained_tokenizer.token_bytes import byte_alphabet
from trellax.runtime.pretrained_tokenizer.tokenizer import PretrainedTokenizer


def as_pretrained(tokenizer: Tokenizer) -> PretrainedTokenizer:
    """Returns the same mapping between text and ids; special tokens that a text spells out are read as such.

    Raises:
        TokenizerError: if it is of another class than those of `trellax.runtime.input`.
    """
    if isinstance(tokenizer, PretrainedTokenizer):
        return tokenizer
    if isinstance(tokenizer, ByteTokenizer):
        library = _bytes_library(tokenizer)
    elif isinstance(tokenizer, BpeTokenizer | FileTokenizer):
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(Path(folder) / "tokenizer.json")
            library = library_from_file(Path(folder))
    else:
        raise TokenizerError(
            f"A {type(tokenizer).__qualname__} cannot be served; use one of trellax.runtime.input, or a PretrainedTokenizer."
        )
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    special = {name: library.id_to_token(i) for name, i in ids.items() if i is not None}
    # A row of training begins a document with its first token, where there is one, and ends it.
    return PretrainedTokenizer.of(
        TokenizerParts(
            library=library,
            source=type(tokenizer).__qualname__,
            special_tokens=special,
            adds_bos=tokenizer.bos_id is not None,
            adds_eos=False,
        )
    )


def _bytes_library(tokenizer: ByteTokenizer) -> Any:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as LibraryTokenizer

    vocabulary = byte_alphabet()
    assert tokenizer.bos_id == len(vocabulary) and tokenizer.eos_id == len(vocabulary) + 1
    library = LibraryTokenizer(models.BPE(vocab=vocabulary, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in ("<bos>", "<eos>")]
    library.add_special_tokens(special)
    return library
