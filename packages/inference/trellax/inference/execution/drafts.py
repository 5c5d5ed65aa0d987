"""`Drafts`: tokens proposed after the inputs of a step's decoding rows.

    drafts = no_drafts(shape.decode_rows, num_tokens=4)

Axes: D decoding rows, K drafts, V vocabulary.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32


@dataclasses.dataclass(frozen=True)
class Drafts:
    """What a step's pass reads and its draw checks; arrays of NumPy, or on the device.

    Attributes:
        ids_DK: the drafts.
        counts_D: how many of them each row has, on the host.
        probs_DKV: the distributions that they were drawn from; None if all are certain.
        certain_D: rows whose drafts count as certain predictions, whatever the distributions: they get the very tokens that
            they get without drafts. Only with distributions.
    """

    ids_DK: Int[Array, "D K"] | Int32[np.ndarray, "D K"]
    counts_D: Int32[np.ndarray, " D"]
    probs_DKV: Float[Array, "D K V"] | None = None
    certain_D: Bool[np.ndarray, " D"] | None = None

    @property
    def num_tokens(self) -> int:
        """Drafts of all rows."""
        return int(self.counts_D.sum())


def no_drafts(num_rows: int, num_tokens: int) -> Drafts:
    """Returns none for any row.

    Args:
        num_rows: D.
        num_tokens: K.
    """
    return Drafts(np.zeros((num_rows, num_tokens), np.int32), np.zeros(num_rows, np.int32))
