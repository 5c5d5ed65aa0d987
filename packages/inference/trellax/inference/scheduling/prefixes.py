"""Keys of full pages: two pages of one key hold the same tokens after the same tokens.

    keys = page_keys(prompt_ids, page_size=16, parent=root_key(salt))

A key is a digest of the key before it and of the page's tokens, so it stands for the whole prefix and its position. The
digest is a cryptographic one: pages of equal keys are shared without another look at their tokens, and a collision would show
one user's text to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

# The two kinds of digest never coincide, whatever text a client chooses as its salt.
_ROOT, _PAGE = b"trellax.root", b"trellax.page"


def root_key(salt: str) -> bytes:
    """Returns the key that a prompt's first page follows."""
    return hashlib.blake2b(
        salt.encode("utf-8", "surrogatepass"), digest_size=32, person=_ROOT
    ).digest()


def page_keys(token_ids: Sequence[int], *, page_size: int, parent: bytes) -> list[bytes]:
    """Returns the key of each full page of `token_ids`, which follow the page of key `parent`."""
    packed, stride = np.asarray(token_ids, np.int32).tobytes(), 4 * page_size
    keys = []
    for start in range(0, len(packed) - stride + 1, stride):
        content = parent + packed[start : start + stride]
        parent = hashlib.blake2b(content, digest_size=32, person=_PAGE).digest()
        keys.append(parent)
    return keys
