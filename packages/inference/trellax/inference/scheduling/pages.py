"""`PageManager`: which pages of keys and values are free, held, or kept for whoever starts alike.

    pages = PageManager(num_pages=513, page_size=16)
    draft = pages.draft()                   # nothing changes until it is committed
    taken = draft.allocate(2)
    pages.commit(draft.change())

A page is in exactly one of three places: free; held by one or more sequences, and counted; or *idle*: held by nobody, but
registered by the tokens in it, until somebody needs the room. Page 0 is the null page, which padding is written to.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class PageChange:
    """What a draft does to the pages it was drawn from.

    Attributes:
        num_popped: pages taken from the end of the free ones.
        revived: idle pages that are held again or were evicted.
        evicted: registered pages that gave way to others.
        counts: new numbers of holders, by page.
        idle: registered pages that nobody holds any more, those to evict first in front.
        freed: pages that became free.
    """

    num_popped: int
    revived: tuple[int, ...]
    evicted: tuple[int, ...]
    counts: Mapping[int, int]
    idle: tuple[int, ...]
    freed: tuple[int, ...]


class PageManager:
    """Counts the holders of pages and finds full ones by their keys (`prefixes.page_keys`).

    Attributes:
        num_pages: pages of the pool, the null page included.
        page_size: tokens of a page.
        num_evictions: registered pages that gave way to others so far.
    """

    def __init__(self, num_pages: int, page_size: int):
        self.num_pages, self.page_size = num_pages, page_size
        self.num_evictions = 0
        self._free = list(range(num_pages - 1, 0, -1))
        self._counts = [0] * num_pages
        self._idle: collections.OrderedDict[int, None] = collections.OrderedDict()
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._withdrawn: set[int] = set()  # Held by several, though no longer registered.

    @property
    def num_available(self) -> int:
        """Pages that can be had: free ones and idle ones."""
        return len(self._free) + len(self._idle)

    @property
    def num_idle(self) -> int:
        """Pages that are kept for whoever starts alike, and held by nobody."""
        return len(self._idle)

    def count(self, page: int) -> int:
        """Returns how many hold a page."""
        return self._counts[page]

    def is_registered(self, page: int) -> bool:
        """Returns whether a page can be found by its key."""
        return page in self._key_of

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """Returns the pages of the longest run of known keys."""
        found = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def register(self, page: int, key: bytes) -> None:
        """Lets a full page be found by its key. The first page of a key stays the one."""
        assert self._counts[page] > 0 and page not in self._key_of, page
        if key not in self._page_of:
            self._page_of[key] = page
            self._key_of[page] = key

    def forget(self) -> None:
        """Drops all keys: nothing that was computed before is shared from now on."""
        self._free.extend(self._idle)
        self._withdrawn.update(page for page in self._key_of if self._counts[page] > 1)
        for kept in (self._idle, self._page_of, self._key_of):
            kept.clear()

    def draft(self) -> PageDraft:
        """Returns a view to plan with."""
        return PageDraft(self)

    def commit(self, change: PageChange) -> None:
        """Makes a draft's change real. Nothing may have changed since the draft was begun."""
        if change.num_popped:
            del self._free[-change.num_popped :]
        for page in change.revived:
            del self._idle[page]
        for page in change.evicted:
            del self._page_of[self._key_of.pop(page)]
        for page, count in change.counts.items():
            self._counts[page] = count
        if self._withdrawn:
            self._withdrawn = {page for page in self._withdrawn if self._counts[page] > 1}
        self._idle.update(dict.fromkeys(change.idle))
        self._free.extend(change.freed)
        self.num_evictions += len(change.evicted)

    def release(self, pages: Sequence[int]) -> None:
        """Gives back one hold of each page."""
        draft = self.draft()
        draft.release(pages)
        self.commit(draft.change())

    def check_invariants(self, held: Iterable[Sequence[int]]) -> None:
        """Asserts that the account is right, given the pages of all who hold some."""
        counts = collections.Counter(page for pages in held for page in pages)
        assert counts == {page: n for page, n in enumerate(self._counts) if n}, "counts of holders"
        places = [*self._free, *self._idle, *counts]
        assert sorted(places) == list(range(1, self.num_pages)), "a page is in no place or in two"
        assert self._page_of == {key: page for page, key in self._key_of.items()}, "keys"
        assert all(page in self._key_of for page in self._idle), "an idle page without a key"
        assert not any(page in self._key_of for page in self._free), "a free page with a key"
        for page, count in counts.items():
            shareable = page in self._key_of or page in self._withdrawn
            assert count == 1 or shareable, f"page {page} is shared, but was never registered"


class PageDraft:
    """Takes and gives back pages without touching the manager: what a plan is made with."""

    def __init__(self, pages: PageManager):
        self._pages = pages
        self._counts: dict[int, int] = {}
        self._num_popped = 0
        self._freed: list[int] = []
        self._idle: dict[int, None] = {}
        self._revived: dict[int, None] = {}
        self._evicted: dict[int, None] = {}
        self._oldest = iter(pages._idle)
        self.num_available = pages.num_available

    def count(self, page: int) -> int:
        """Returns how many would hold a page."""
        return self._counts.get(page, self._pages._counts[page])

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """Returns the pages of the longest run of known keys that are not evicted."""
        found = self._pages.find(keys)
        for index, page in enumerate(found):
            if page in self._evicted:
                return found[:index]
        return found

    def allocate(self, num_pages: int) -> list[int]:
        """Takes pages that nobody holds, evicting idle ones if there are no others."""
        assert num_pages <= self.num_available, (num_pages, self.num_available)
        self.num_available -= num_pages
        taken = [self._take() for _ in range(num_pages)]
        self._counts.update(dict.fromkeys(taken, 1))
        return taken

    def acquire(self, pages: Sequence[int]) -> None:
        """Adds a hold to each of the pages, which were found by their keys."""
        for page in pages:
            count = self.count(page)
            if count == 0:
                self.num_available -= 1
                if page in self._idle:
                    del self._idle[page]
                else:
                    self._revived[page] = None
            self._counts[page] = count + 1

    def release(self, pages: Sequence[int]) -> None:
        """Takes a hold from each. The end of a prefix is of use only with what is before it, so it is evicted first."""
        for page in reversed(pages):
            count = self._counts[page] = self.count(page) - 1
            assert count >= 0, page
            if count:
                continue
            self.num_available += 1
            if self._pages.is_registered(page) and page not in self._evicted:
                self._idle[page] = None
            else:
                self._freed.append(page)

    def change(self) -> PageChange:
        """Returns what to commit."""
        return PageChange(
            num_popped=self._num_popped,
            revived=tuple(self._revived),
            evicted=tuple(self._evicted),
            counts=self._counts,
            idle=tuple(self._idle),
            freed=tuple(self._freed),
        )

    def _take(self) -> int:
        if self._freed:
            return self._freed.pop()
        if self._num_popped < len(self._pages._free):
            self._num_popped += 1
            return self._pages._free[-self._num_popped]
        for page in self._oldest:
            if page not in self._revived:
                self._revived[page] = self._evicted[page] = None
                return page
        page = next(iter(self._idle))
        del self._idle[page]
        self._evicted[page] = None
        return page
