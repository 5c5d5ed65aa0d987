"""`TokenInfo`: what travels beside the activations and says which token each row entry is.

    layer(x_BSD, TokenInfo(positions_BS, segment_ids_BS))

Axes: B batch, S sequence.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


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
    """

    positions_BS: Int[Array, "B S"] | None = None  # noqa: N815
    segment_ids_BS: Int[Array, "B S"] | None = None  # noqa: N815

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
    TokenInfo, data_fields=["positions_BS", "segment_ids_BS"], meta_fields=[]
)
