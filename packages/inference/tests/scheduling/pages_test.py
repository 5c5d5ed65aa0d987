"""The account of pages: what is shared, what is evicted first, and what a digest stands for."""

from __future__ import annotations

import random

import pytest

from trellax.inference.scheduling import PageManager
from trellax.inference.scheduling.prefixes import page_keys, root_key


def keys_of(tokens: list[int], *, salt: str = "", page_size: int = 2) -> list[bytes]:
    return page_keys(tokens, page_size=page_size, parent=root_key(salt))


def held(pages: PageManager, keys: list[bytes]) -> list[int]:
    """Returns new pages that are held once and registered by `keys`."""
    draft = pages.draft()
    taken = draft.allocate(len(keys))
    pages.commit(draft.change())
    for page, key in zip(taken, keys, strict=True):
        pages.register(page, key)
    return taken


def allocated(pages: PageManager, num_pages: int) -> list[int]:
    draft = pages.draft()
    taken = draft.allocate(num_pages)
    pages.commit(draft.change())
    return taken


def test_the_null_page_is_never_handed_out() -> None:
    assert 0 not in allocated(PageManager(5, 2), 4)


def test_a_draft_changes_nothing_until_it_is_committed() -> None:
    pages = PageManager(5, 2)
    draft = pages.draft()
    taken = draft.allocate(3)
    assert (draft.num_available, pages.num_available) == (1, 4)
    assert pages.draft().allocate(3) == taken, "the same state gives the same pages"
    pages.commit(draft.change())
    pages.check_invariants([taken])


def test_pages_of_the_same_prefix_are_found_as_far_as_it_goes() -> None:
    pages = PageManager(9, 2)
    first = held(pages, keys_of([1, 2, 3, 4, 5, 6]))
    assert pages.find(keys_of([1, 2, 3, 4, 5, 6, 7, 8])) == first
    assert pages.find(keys_of([1, 2, 3, 4, 9, 9])) == first[:2]
    assert pages.find(keys_of([3, 4])) == [], "the same tokens after others are another page"


def test_keys_depend_on_the_salt_and_on_all_tokens_before() -> None:
    tokens = [1, 2, 3, 4]
    every = [*keys_of(tokens), *keys_of(tokens, salt="a"), *keys_of([2, 1, 3, 4])]
    assert len({*every}) == len(every)
    assert keys_of([1, 2, 3, 4, 5])[:2] == keys_of(tokens), "what follows changes nothing"


def test_no_salt_makes_a_first_page_look_like_a_later_one() -> None:
    """A root and a page of the same bytes have different keys."""
    packed = b"\x01\x00\x00\x00\x02\x00\x00\x00"
    later = page_keys([1, 2], page_size=2, parent=b"")
    assert root_key(packed.decode()) != later[0]


def test_idle_pages_are_kept_until_there_is_no_other() -> None:
    pages = PageManager(5, 2)
    keys = keys_of([1, 2, 3, 4])
    taken = held(pages, keys)
    pages.release(taken)
    assert pages.num_available == 4 and pages.find(keys) == taken
    assert not {*allocated(pages, 2)} & {*taken}
    assert pages.find(keys) == taken and pages.num_evictions == 0
    allocated(pages, 1)
    assert pages.find(keys) == taken[:1], "the end of a prefix goes first"
    assert pages.num_evictions == 1


def test_what_was_used_longest_ago_is_evicted_first() -> None:
    pages = PageManager(4, 1)
    keys = [keys_of([token], page_size=1) for token in (1, 2, 3)]
    taken = [held(pages, key) for key in keys]
    for page in taken:
        pages.release(page)
    draft = pages.draft()
    draft.acquire(taken[0])  # The first is used again, …
    draft.release(taken[0])
    pages.commit(draft.change())
    allocated(pages, 2)
    assert [bool(pages.find(key)) for key in keys] == [True, False, False]  # … so it stays.


def test_the_first_page_of_a_key_stays_the_one() -> None:
    pages = PageManager(5, 2)
    keys = keys_of([1, 2])
    first, second = held(pages, keys), held(pages, keys)
    assert pages.find(keys) == first and not pages.is_registered(second[0])
    pages.release(second)
    pages.check_invariants([first])
    assert pages.num_idle == 0


def test_what_is_forgotten_is_not_found_and_not_lost() -> None:
    pages = PageManager(6, 2)
    keys = keys_of([1, 2, 3, 4])
    taken = held(pages, keys)
    draft = pages.draft()
    draft.acquire(taken)
    pages.commit(draft.change())
    idle = held(pages, keys_of([7, 7]))
    pages.release(idle)
    pages.forget()
    assert pages.find(keys) == [] and pages.num_idle == 0
    pages.check_invariants([taken, taken])
    pages.release(taken)
    pages.release(taken)
    pages.check_invariants([])
    assert pages.num_available == 5


def test_sharing_a_page_that_was_never_registered_is_noticed() -> None:
    pages = PageManager(4, 2)
    taken = allocated(pages, 1)
    draft = pages.draft()
    draft.acquire(taken)
    pages.commit(draft.change())
    with pytest.raises(AssertionError, match="never registered"):
        pages.check_invariants([taken, taken])


def test_drafts_of_many_operations_agree_with_doing_them_one_by_one() -> None:
    """A draft that takes and gives back in any order leaves the same account as its steps alone would."""
    for seed in range(300):
        rng = random.Random(seed)
        pages = PageManager(rng.randint(3, 9), 1)
        holders: list[list[int]] = []
        next_token = 0
        for _ in range(12):
            draft = pages.draft()
            for _ in range(rng.randint(1, 5)):
                kind = rng.randrange(3)
                if kind == 0 and draft.num_available:
                    holders.append(draft.allocate(rng.randint(1, draft.num_available)))
                elif kind == 1 and holders:
                    draft.release(holders.pop(rng.randrange(len(holders))))
                elif kind == 2:
                    found = draft.find(keys_of([rng.randint(0, next_token)], page_size=1))
                    draft.acquire(found)
                    holders.append(found)
            pages.commit(draft.change())
            for page in {page for pages_of_one in holders for page in pages_of_one}:
                if not pages.is_registered(page) and pages.count(page) == 1 and rng.random() < 0.5:
                    next_token += 1
                    pages.register(page, keys_of([next_token], page_size=1)[0])
            pages.check_invariants(holders)
            assert pages.num_available == pages.num_pages - 1 - len({p for h in holders for p in h})
