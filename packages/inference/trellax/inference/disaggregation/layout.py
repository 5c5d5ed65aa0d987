"""`StateLayout`: what the state of a sequence is made of, which both ends of a hand-over must agree on.

    layout = StateLayout.of(core)
    receiver = PageReceiver(fingerprint=f"{weights} {layout.fingerprint}", capacity_bytes=layout.handover_bytes(longest, ()))

An *entry* is what one page, or one slot, has of one array of the engine's state.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from typing import Any, Literal

import jax

from trellax.inference.disaggregation.handover import bookkeeping_bytes
from trellax.inference.engine import EngineCore
from trellax.inference.requests import Request
from trellax.layers import is_state_axis


@dataclasses.dataclass(frozen=True)
class Entry:
    """Attributes: `path` in the tree of states, whether of a `kind` "page" or "slot", its `shape`, `dtype`, `num_bytes`."""

    path: str
    kind: Literal["page", "slot"]
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class StateLayout:
    """
    Attributes:
        page_size: tokens of a page.
        max_length: tokens of the longest sequence.
        entries: in the order in which arrays are handed over.
    """

    page_size: int
    max_length: int
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, core: EngineCore) -> StateLayout:
        """Returns the layout of an engine's states."""
        runner, limits = core.runner, core.state.limits
        axes = jax.tree_util.tree_leaves_with_path(runner.state_axes, is_leaf=is_state_axis)
        arrays = jax.tree.leaves(runner.state)
        entries = tuple(
            _entry(jax.tree_util.keystr(path), axis, array)
            for (path, axis), array in zip(axes, arrays, strict=True)
        )
        return cls(limits.page_size, limits.max_length, entries)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short, and another one for every other layout."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:16]

    @property
    def most_handover_bytes(self) -> int:
        """Of the longest sequence."""
        longest = Request("longest", (0,) * self.max_length)
        return self.handover_bytes(longest, ())

    def handover_bytes(self, request: Request, earlier_ids: tuple[int, ...]) -> int:
        """Returns what a hand-over takes at most, which is made after `earlier_ids` and one more token."""
        num_tokens = len(request.prompt_ids) + len(earlier_ids) + 1
        counts = {"page": -(-num_tokens // self.page_size), "slot": 1}
        num_array_bytes = sum(counts[entry.kind] * entry.num_bytes for entry in self.entries)
        return num_array_bytes + bookkeeping_bytes(request, (*earlier_ids, 0))


def _entry(path: str, axis: Any, array: jax.Array) -> Entry:
    shape = array.shape[: axis.axis] + array.shape[axis.axis + 1 :]
    num_bytes = math.prod(shape) * array.dtype.itemsize
    return Entry(path, axis.kind, shape, array.dtype.name, num_bytes)
