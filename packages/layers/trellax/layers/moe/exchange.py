"""Rows that travel between the devices of an axis, each to the device of its expert, and back.

    exchange = Exchange(order, layout, buffer_factor=None, kind="dense")
    rows_RD, expert_R = exchange.there(x_ND)
    choices_NCD = exchange.back(rows_RD)

Devices do not know beforehand how many rows will come, but arrays have fixed sizes. With P devices that each have M
copies of tokens to send, the even share is M/P from each device to each other; in the worst case all go to one.

- *dense*: `all_to_all` of one buffer of K rows for each pair of devices, padded. Works everywhere, and sends P · K
  rows whatever the loads are.
- *ragged*: `ragged_all_to_all` into one buffer of P · K rows. Sends what there is, and only the sum of what all
  devices send to one is bounded. TPU and GPU.

Every device first learns all counts (int32, P · E), from which each derives the same places.

Axes: N tokens of a device, C copies of a token, M = N · C, P devices of the axis, E experts, L experts of a device,
K rows of a pair's buffer, R = P · K, D model.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.layers.moe.rows import Slots, SortedCopies, collect, inverse, spread

ExchangeKind = Literal["dense", "ragged"]


def rows_per_pair(
    num_tokens: int,
    num_copies: int,
    *,
    num_peers: int,
    num_local_experts: int,
    buffer_factor: float | None,
) -> int:
    """Returns K: what no device can exceed, as a token's experts are all different; or a multiple of the even share."""
    worst = num_tokens * min(num_copies, num_local_experts)
    if buffer_factor is None:
        return worst
    return max(1, min(worst, math.ceil(buffer_factor * num_tokens * num_copies / num_peers)))


class Exchange:
    """One device's view of one exchange. Runs inside `shard_map`."""

    def __init__(
        self,
        order: SortedCopies,
        *,
        axes: tuple[str, ...],
        num_peers: int,
        pair_rows: int,
        kind: ExchangeKind,
    ):
        """
        Args:
            order: this device's copies.
            axes: mesh axes whose devices take part, in the order in which they split the experts.
            num_peers: P.
            pair_rows: K.
            kind: which collective.
        """
        self._order = order
        self._axes = axes
        self._kind = kind
        self._pair_rows = pair_rows
        self._num_peers = num_peers
        counts_PE = jax.lax.all_gather(order.sizes_E, axes)
        self._counts_PPL = counts_PE.reshape(num_peers, num_peers, -1)
        """Copies by source, destination and the destination's expert."""
        self._me = jax.lax.axis_index(axes)

    # ---- there and back ---------------------------------------------------------------------------

    def there(
        self, x_ND: Float[Array, "N D"]
    ) -> tuple[Float[Array, "R D"], Int[Array, " R"], Int[Array, ""]]:
        """Returns the rows for this device's experts, the expert of each (L where there is no row), and how many of
        the copies that this device sends found no place."""
        if self._kind == "dense":
            rows_RD = self._all_to_all(spread(x_ND, self._pair_slots()))
            taken_PP = jnp.minimum(self._counts_PPL.sum(2), self._pair_rows)
        else:
            taken_PP = ragged_taken(self._counts_PPL.sum(2), self._num_rows)
            rows_RD = self._ragged(spread(x_ND, self._sorted_slots()), self._num_rows, taken_PP)
        num_lost = (self._counts_PPL.sum(2) - taken_PP)[self._me].sum()
        return rows_RD, self._experts_of_rows(), num_lost

    def back(self, rows_RD: Float[Array, "R D"]) -> Float[Array, "N C D"]:
        """Returns what became of this device's copies; zeros for those that found no place."""
        if self._kind == "dense":
            return collect(self._all_to_all(rows_RD), self._pair_slots())
        taken_PP = ragged_taken(self._counts_PPL.sum(2), self._num_rows)
        sorted_MD = self._ragged_back(rows_RD, taken_PP)
        return collect(sorted_MD, self._sorted_slots())

    @property
    def _num_rows(self) -> int:
        return self._num_peers * self._pair_rows

    # ---- dense ------------------------------------------------------------------------------------

    def _all_to_all(self, rows_RD: Array) -> Array:
        return jax.lax.all_to_all(rows_RD, self._axes, split_axis=0, concat_axis=0, tiled=True)

    def _pair_slots(self) -> Slots:
        """Slot p · K + j holds the j-th copy for device p."""
        sent_P = self._counts_PPL[self._me].sum(1)
        start_P = jnp.cumsum(sent_P) - sent_P
        j_K = jnp.arange(self._pair_rows)
        place_PK = jnp.where(j_K < sent_P[:, None], start_P[:, None] + j_K, _NOWHERE)
        copy_M = self._order.copy_M
        copy_R = copy_M.at[place_PK.reshape(-1)].get(mode="fill", fill_value=copy_M.size)
        slot_NC = inverse(copy_R, copy_M.size).reshape(self._order.place_NC.shape)
        return Slots(copy_R, slot_NC)

    # ---- ragged -----------------------------------------------------------------------------------

    def _sorted_slots(self) -> Slots:
        return Slots(self._order.copy_M, self._order.place_NC)

    def _ragged(self, rows_MD: Array, num_rows: int, taken_PP: Array) -> Array:
        out_RD = jnp.zeros((num_rows, rows_MD.shape[1]), rows_MD.dtype)
        return jax.lax.ragged_all_to_all(
            rows_MD,
            out_RD,
            *ragged_offsets(self._counts_PPL.sum(2), taken_PP, self._me),
            axis_name=self._axes,
        )

    def _ragged_back(self, rows_RD: Array, taken_PP: Array) -> Array:
        out_MD = jnp.zeros((self._order.copy_M.size, rows_RD.shape[1]), rows_RD.dtype)
        offsets = ragged_return_offsets(self._counts_PPL.sum(2), taken_PP, self._me)
        return jax.lax.ragged_all_to_all(rows_RD, out_MD, *offsets, axis_name=self._axes)

    # ---- what came --------------------------------------------------------------------------------

    def _experts_of_rows(self) -> Array:
        """Returns the local expert of each row that came, L where none did."""
        counts_PL = self._counts_PPL[:, self._me]
        num_local = counts_PL.shape[1]
        if self._kind == "dense":
            j_K = jnp.arange(self._pair_rows)
            ends_PL = jnp.cumsum(counts_PL, axis=1)
            return (j_K[None, :, None] >= ends_PL[:, None, :]).sum(2).reshape(-1)
        ends_A = jnp.cumsum(counts_PL.reshape(-1))
        row_R = jnp.arange(self._num_rows)
        source_R = jnp.searchsorted(ends_A, row_R, side="right")
        return jnp.where(row_R < ends_A[-1], source_R % num_local, num_local)


_NOWHERE = jnp.iinfo(jnp.int32).max
"""An index that is past the end of any array."""


def ragged_taken(counts_PP: Int[Array, "P P"], num_rows: int) -> Int[Array, "P P"]:
    """Returns how many rows each destination (second dim) takes from each source (first).

    Rows of the first source come first; those past `num_rows` are not sent.
    """
    ends_PP = jnp.minimum(jnp.cumsum(counts_PP, axis=0), num_rows)
    return jnp.diff(ends_PP, axis=0, prepend=0)


def ragged_offsets(
    counts_PP: Int[Array, "P P"], taken_PP: Int[Array, "P P"], me: Int[Array, ""] | int
) -> tuple[Array, Array, Array, Array]:
    """Returns input offsets, send sizes, output offsets and receive sizes of `jax.lax.ragged_all_to_all`, [P] each.

    Args:
        counts_PP: rows that each source (first dim) has for each destination (second), sorted by destination.
        taken_PP: those that are sent.
        me: this device's place on the axis.
    """
    begins_PP = jnp.cumsum(counts_PP, axis=1) - counts_PP
    arrives_PP = jnp.cumsum(taken_PP, axis=0) - taken_PP
    return begins_PP[me], taken_PP[me], arrives_PP[me], taken_PP[:, me]


def ragged_return_offsets(
    counts_PP: Int[Array, "P P"], taken_PP: Int[Array, "P P"], me: Int[Array, ""] | int
) -> tuple[Array, Array, Array, Array]:
    """Returns the same for the way back: each row goes to where it was sent from."""
    begins_PP = jnp.cumsum(counts_PP, axis=1) - counts_PP
    arrives_PP = jnp.cumsum(taken_PP, axis=0) - taken_PP
    return arrives_PP[:, me], taken_PP[:, me], begins_PP[:, me], taken_PP[me]
