"""Rows on their way to an expert and back, without scatters.

    slots = Slots(order.copy_M, order.place_NC)  # of `order = sorted_copies(experts_NC, num_experts)`
    rows_RD = spread(x_ND, slots)          # each token's copies, in their slots
    choices_NCD = collect(rows_RD, slots)  # what became of them

A token has C copies, and each copy has a slot or none. The gradient of a gather is a scatter-add, which is slow
and, where copies repeat, not deterministic. Here who goes where is known in both directions, so each direction's
gradient is the gather of the other.

Axes: N tokens, C copies of a token, R slots, E experts, D model.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Slots(NamedTuple):
    """Which copy lies in which slot; the two arrays are inverse to each other.

    Attributes:
        copy_R: int32 copy (token · C + choice) in each slot, N · C where the slot is empty.
        slot_NC: int32 slot of each copy, R where it has none.
    """

    copy_R: Int[Array, " R"]
    slot_NC: Int[Array, "N C"]


class SortedCopies(NamedTuple):
    """All copies in the order of their experts.

    Attributes:
        copy_M: int32 copies (token · C + choice), those of the first expert first.
        place_NC: int32 place of each copy in that order.
        sizes_E: int32 copies of each expert.
    """

    copy_M: Int[Array, " M"]
    place_NC: Int[Array, "N C"]
    sizes_E: Int[Array, " E"]

    @property
    def starts(self) -> Int[Array, " E"]:
        """The place of each expert's first copy."""
        return jnp.cumsum(self.sizes_E) - self.sizes_E


def sorted_copies(
    experts_NC: Int[Array, "N C"], num_experts: int, *, first_choices_first: bool = False
) -> SortedCopies:
    """Sorts copies by expert.

    Args:
        experts_NC: the expert of each copy; `num_experts` (no expert) comes last and is not counted.
        num_experts: E.
        first_choices_first: whether an expert's copies stand in the order of choices and then of tokens, rather than
            of tokens alone.
    """
    num_tokens, num_copies = experts_NC.shape
    keys_NC = (
        experts_NC * num_copies + jnp.arange(num_copies) if first_choices_first else experts_NC
    )
    copy_M = jnp.argsort(keys_NC.reshape(-1), stable=True).astype(jnp.int32)
    place_NC = inverse(copy_M, copy_M.size).reshape(num_tokens, num_copies)
    return SortedCopies(copy_M, place_NC, counts(experts_NC, num_experts))


def counts(values: Int[Array, ...], num: int) -> Int[Array, " num"]:
    """Returns how often each of 0 … num - 1 occurs."""
    return jnp.zeros(num, jnp.int32).at[values.reshape(-1)].add(1, mode="drop")


def inverse(index_A: Int[Array, " A"], num: int) -> Int[Array, " num"]:
    """Returns where each of 0 … num - 1 occurs in `index_A`, A where it does not."""
    places_A = jnp.arange(index_A.size, dtype=jnp.int32)
    return jnp.full(num, index_A.size, jnp.int32).at[index_A].set(places_A, mode="drop")


# An index past the end reads as zeros.
def _gathered(x: jax.Array, index: jax.Array) -> jax.Array:
    return x.at[index].get(mode="fill", fill_value=0)


@jax.custom_vjp
def spread(x_ND: Float[Array, "N D"], slots: Slots) -> Float[Array, "R D"]:
    """Returns the copies of tokens in their slots; empty slots are zeros."""
    return _gathered(x_ND, slots.copy_R // slots.slot_NC.shape[1])


def _spread_forward(x_ND: jax.Array, slots: Slots) -> tuple[jax.Array, Slots]:
    return spread(x_ND, slots), slots


def _spread_backward(slots: Slots, g_RD: jax.Array) -> tuple[jax.Array, None]:
    return _gathered(g_RD, slots.slot_NC).sum(axis=1), None


spread.defvjp(_spread_forward, _spread_backward)


@jax.custom_vjp
def collect(rows_RD: Float[Array, "R D"], slots: Slots) -> Float[Array, "N C D"]:
    """Returns the row in each copy's slot; zeros where a copy has none."""
    return _gathered(rows_RD, slots.slot_NC)


def _collect_forward(rows_RD: jax.Array, slots: Slots) -> tuple[jax.Array, Slots]:
    return collect(rows_RD, slots), slots


def _collect_backward(slots: Slots, g_NCD: jax.Array) -> tuple[jax.Array, None]:
    return _gathered(g_NCD.reshape(-1, g_NCD.shape[-1]), slots.copy_R), None


collect.defvjp(_collect_forward, _collect_backward)
