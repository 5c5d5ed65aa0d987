"""`TokenInfo`: what travels beside the activations and says which token each row entry is.

    layer(x_BSD, TokenInfo(positions_BS, segment_ids_BS))

Axes: B batch, S sequence, R rows of a group, P pages of a row at most.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """Rows of one length that lie one after the other in a flat batch, and where their keys and values are kept.

    A serving step computes tokens of many sequences at once as one flat row, so that weights are read once: prompts'
    chunks and single new tokens, each kind a group. To all layers but attention they are tokens like any others.

    Attributes:
        length: tokens a row, the same for all; shorter rows are padded with segment 0.
        slots_R: int32 place of each row's sequence in states that have one for every sequence.
        block_table_RP: int32 pages of each row's sequence in states that are kept in pages, in the order of
            positions; 0 is the null page, which is written and never read.
    """

    length: int
    slots_R: Int[Array, " R"]  # noqa: N815
    block_table_RP: Int[Array, "R P"]  # noqa: N815

    @property
    def num_rows(self) -> int:
        return self.slots_R.shape[0]


jax.tree_util.register_dataclass(
    RowGroup, data_fields=["slots_R", "block_table_RP"], meta_fields=["length"]
)


@dataclasses.dataclass(frozen=True)
class TokenInfo:
    """Where each token stands in its document, and which document it belongs to.

    Both are optional, so that training on unpacked rows carries, compares and masks nothing.

    Outside of decoding the tokens of a document stand in their order in the row: masks and score biases
    go by that order, and `positions_BS` matters to position encodings alone. While decoding, positions
    are required: they say where in the cache a token goes.

    Attributes:
        positions_BS: int32 places in the documents; None means 0 … S-1 in every row.
        segment_ids_BS: int32 document numbers, equal within a document; 0 marks padding, which is
            neither attended to nor cached. None means that each row is one document.
        groups: of a flat batch [1, S], the groups that it consists of, in order; None where each row of the
            batch is one sequence.
    """

    positions_BS: Int[Array, "B S"] | None = None  # noqa: N815
    segment_ids_BS: Int[Array, "B S"] | None = None  # noqa: N815
    groups: tuple[RowGroup, ...] | None = None

    @classmethod
    def contiguous(cls, batch_size: int, length: int, *, start: int | Int[Array, " B"] = 0) -> Self:
        """Returns `length` tokens a row, at positions `start`, `start` + 1, …, without padding.

        Args:
            batch_size: number of rows.
            length: tokens a row.
            start: position of the first, one for all rows or one each.
        """
        start_B1 = jnp.broadcast_to(jnp.asarray(start, jnp.int32), (batch_size,))[:, None]
        return cls(positions_BS=start_B1 + jnp.arange(length, dtype=jnp.int32))


jax.tree_util.register_dataclass(
    TokenInfo, data_fields=["positions_BS", "segment_ids_BS", "groups"], meta_fields=[]
)
