"""The exact bytes that each token stands for.

    bytes_of_tokens(library)[198]  # b"\\n"

The text of some tokens joined may differ from the joined texts of each: a character can be spread over tokens. Bytes
have no such trouble, so what is shown token by token is made of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

METASPACE = "\u2581"
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def bytes_of_tokens(library: Any) -> list[bytes]:
    """Returns the bytes of each id, b"" for ids that stand for nothing.

    Args:
        library: a `tokenizers.Tokenizer`.
    """
    convert = _conversion(json.loads(library.to_str())["decoder"])
    vocabulary = library.get_vocab(with_added_tokens=True)
    found = [b""] * (max(vocabulary.values()) + 1)
    for token, token_id in vocabulary.items():
        found[token_id] = convert(token)
    for token_id, token in library.get_added_tokens_decoder().items():
        found[token_id] = token.content.encode()
    return found


def byte_alphabet() -> dict[str, int]:
    """Returns GPT-2's character for each byte: printable ones stand for themselves, others for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + i): byte for i, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


def _conversion(decoder: Any) -> Callable[[str], bytes]:
    kinds = {step["type"] for step in _steps(decoder)}
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()
        return lambda token: _of_alphabet(token, alphabet)
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return lambda token: _of_pieces(token, has_fallback="ByteFallback" in kinds)
    return str.encode


def _steps(decoder: Any) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _of_alphabet(token: str, alphabet: dict[str, int]) -> bytes:
    if all(character in alphabet for character in token):
        return bytes(alphabet[character] for character in token)
    return token.encode()


def _of_pieces(token: str, *, has_fallback: bool) -> bytes:
    byte = _FALLBACK.fullmatch(token) if has_fallback else None
    return bytes([int(byte[1], 16)]) if byte else token.replace(METASPACE, " ").encode()
