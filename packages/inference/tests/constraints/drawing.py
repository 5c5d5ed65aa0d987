"""A model that knows nothing, for texts that only their constraint shapes; and what a mask should be.

text = drawn_text(tokenizer, compiler.compile(constraint), vocab_size=521, seed=0)
"""

from __future__ import annotations

import numpy as np

from tests.text.sample_tokenizers import SampleTokenizer
from trellax.inference.constraints import Matcher

LONGEST = 3000

_LIKES = {b'"': 3.0, b"}": 2.0, b"]": 2.0}


def allowed_ids(matcher: Matcher, vocab_size: int) -> list[int]:
    """Returns the ids that the mask allows, those of the padding of its last word too."""
    out = np.full(-(-vocab_size // 32), 0xDEADBEEF, np.uint32)
    matcher.fill_mask(out)
    return ids_of(out)


def ids_of(mask: np.ndarray) -> list[int]:
    bits = (mask[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return np.flatnonzero(bits.reshape(-1)).tolist()


def drawn_ids(
    tokenizer: SampleTokenizer,
    matcher: Matcher,
    *,
    vocab_size: int,
    seed: int,
    greedy: bool = False,
) -> list[int]:
    """Returns the tokens of a random model under the constraint; the last one is an end token.

    It likes to close what it has opened and tires of the rest. A greedy one's liking has no chance in it.
    """
    rng = np.random.default_rng(seed)
    likes = np.zeros(vocab_size)
    for i in range(tokenizer.vocab_size):
        likes[i] = _LIKES.get(tokenizer.token_bytes(i), 0.0)
    likes[list(tokenizer.eos_ids)] = 2.0
    noise = rng.normal(size=vocab_size, scale=0.1)
    ids: list[int] = []
    while not ids or ids[-1] not in tokenizer.eos_ids:
        allowed = allowed_ids(matcher, vocab_size)
        assert allowed, "something can always follow"
        noise = noise if greedy else rng.normal(size=vocab_size)
        ids.append(max(allowed, key=(likes + noise).__getitem__))
        likes[ids[-1]] -= 0.05 * (likes[ids[-1]] < 1.0)
        assert matcher.accept(ids[-1]), "what the mask allows is accepted"
        assert len(ids) < LONGEST, tokenizer.decode(ids)
    assert matcher.is_done()
    assert matcher.error is None
    return ids


def drawn_text(
    tokenizer: SampleTokenizer,
    matcher: Matcher,
    *,
    vocab_size: int,
    seed: int,
    greedy: bool = False,
) -> str:
    ids = drawn_ids(tokenizer, matcher, vocab_size=vocab_size, seed=seed, greedy=greedy)
    return b"".join(map(tokenizer.token_bytes, ids[:-1])).decode()
