"""What is agreed on about the state of decoding: pools of pages, and whose the entries of an array are."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class PagePool:
    """Memory that sequences share, in pages.

    Attributes:
        num_pages: pages, the null page 0 included.
        page_size: tokens a page.
    """

    num_pages: int
    page_size: int


@dataclasses.dataclass(frozen=True)
class StateAxis:
    """The axis of a state array whose entries belong to different sequences.

    Attributes:
        kind: "page": an entry is a page, which a block table gives to sequences. "slot": an entry is a sequence.
        axis: which axis of the array.
    """

    kind: Literal["page", "slot"]
    axis: int = 0


def is_state_axis(value: object) -> bool:
    """Whether `value` is a `StateAxis`: the `is_leaf` of trees of them."""
    return isinstance(value, StateAxis)
