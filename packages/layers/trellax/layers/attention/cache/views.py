"""What a cache hands to attention: keys and values, and where they and the queries stand.

Axes: B rows, S queries a row, T keys a row, P pages a row at most, K kv heads, H head dim.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float, Int, Shaped


class CacheView(NamedTuple):
    """Keys and values that the queries of one call may read, and where both stand.

    Attributes:
        key: position-encoded keys.
        value: values.
        query_positions: int32 places of the queries; None (with `key_positions`) where array order is
            document order and T = S.
        key_positions: int32 places of the keys.
        query_segments: int32 documents of the queries, 0 for padding; None if there is but one.
        key_segments: int32 documents of the keys, 0 for padding and empty slots.
    """

    key: Float[Array, "B T K H"]
    value: Float[Array, "B T K H"]
    query_positions: Int[Array, "#B S"] | None = None
    key_positions: Int[Array, "#B T"] | None = None
    query_segments: Int[Array, "#B S"] | None = None
    key_segments: Int[Array, "#B T"] | None = None


class PagedView(NamedTuple):
    """Keys and values in pages, which attention reads where they lie.

    Attributes:
        key_pages: position-encoded keys, in a float dtype, or in eight bits with scales.
        value_pages: values.
        block_table: int32 pages of each row, in order.
        query_positions: int32 places of the queries, -1 for padding.
        lengths: int32 keys of each row that are written.
        key_scales: float32 factors of keys of eight bits, else None.
        value_scales: the same of values.
        implementation: of the kernel that reads the pages, as `paged_attention` takes it.
    """

    key_pages: Shaped[Array, "num_pages page_size K H"]
    value_pages: Shaped[Array, "num_pages page_size K H"]
    block_table: Int[Array, "B P"]
    query_positions: Int[Array, "B S"]
    lengths: Int[Array, " B"]
    key_scales: Float[Array, "num_pages page_size K"] | None = None
    value_scales: Float[Array, "num_pages page_size K"] | None = None
    implementation: str | tuple[str, ...] | None = None

    @property
    def query_segments(self) -> None:
        """A row is one document."""
        return None


class GroupedView(NamedTuple):
    """Views of the row groups of a flat batch, in order.

    Attributes:
        parts: (tokens a row, view of the group's rows).
    """

    parts: tuple[tuple[int, CacheView | PagedView], ...]

    @property
    def query_segments(self) -> Array | None:
        """Documents of the first group's queries: of all groups there are some, or of none."""
        return self.parts[0][1].query_segments
