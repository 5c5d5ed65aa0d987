"""`PrefixAffinity`: which worker has probably computed the beginning of a prompt before.

    names = affinity.ranked(request)      # workers, the one with the longest common beginning first
    affinity.note(request, "prefill-1")

It remembers hashes of the first 1, 2, 4, 8 … pages of prompts, so a prompt costs a logarithmic number of entries, and the
length in common is known to a factor of two. Only a guess: a worker may have dropped those pages since.
"""

from __future__ import annotations

import array
import collections
import hashlib

from trellax.inference.requests import Request


class PrefixAffinity:
    """A bounded memory of who has prefilled what."""

    def __init__(self, *, page_size: int, max_entries: int = 1 << 16):
        """
        Args:
            page_size: tokens of a page; workers cache whole ones.
            max_entries: the entries that were used longest ago make way.
        """
        self._page_size = page_size
        self._max_entries = max_entries
        self._workers: collections.OrderedDict[bytes, str] = collections.OrderedDict()

    def ranked(self, request: Request) -> list[str]:
        """Returns the workers that have begun like this, those with the most in common first."""
        found = [self._workers.get(key) for key in reversed(self._keys(request))]
        return list(dict.fromkeys(name for name in found if name is not None))

    def note(self, request: Request, name: str) -> None:
        """Remembers that a worker has this prompt from now on."""
        for key in self._keys(request):
            self._workers[key] = name
            self._workers.move_to_end(key)
        while len(self._workers) > self._max_entries:
            self._workers.popitem(last=False)

    def _keys(self, request: Request) -> list[bytes]:
        digest = hashlib.blake2b(
            request.cache_salt.encode("utf-8", "surrogatepass"), digest_size=16
        )
        keys, start, end = [], 0, self._page_size
        while end <= len(request.prompt_ids):
            digest.update(array.array("q", request.prompt_ids[start:end]).tobytes())
            keys.append(digest.copy().digest())
            start, end = end, 2 * end
        return keys
