"""What a step's program is told: one int32 vector, so that it reaches the device in one transfer.

    packed = pack_inputs(plan, shape, block_tables)          # on the host
    inputs = unpack_inputs(packed, shape, width=num_pages)   # in the program

Axes: T tokens of the flat batch, D decoding rows, C tiles, P pages of a row at most, R rows of logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Int, Int32

from trellax.inference.execution.shapes import StepShape
from trellax.inference.scheduling import PrefillChunk, StepPlan

UNKNOWN = -1
"""An input token that only the device knows: the one that the step before drew."""


class StepInputs(NamedTuple):
    """Parts of the vector; arrays of JAX in the program, of NumPy on the host.

    Attributes:
        ids: tokens [T], drafts left out; `UNKNOWN` for the last one drawn in the row's slot.
        positions: their places [T], -1 for padding.
        decode_slots: slots of the decoding rows [D].
        decode_tables: their block tables [D, P].
        tile_slots: slots of the tiles [C].
        tile_tables: their block tables [C, P].
        draws_at: which tokens' logits are wanted [R].
    """

    ids: Any
    positions: Any
    decode_slots: Any
    decode_tables: Any
    tile_slots: Any
    tile_tables: Any
    draws_at: Any


def input_shapes(shape: StepShape, width: int) -> StepInputs:
    """Returns the shape of each input.

    Args:
        shape: of the step.
        width: P.
    """
    T, D, C = shape.num_tokens, shape.decode_rows, shape.tiles
    R = shape.num_draws + (C * shape.tile_length if shape.scores else 0)
    return StepInputs((T,), (T,), (D,), (D, width), (C,), (C, width), (R,))


def packed_size(shape: StepShape, width: int) -> int:
    """Returns the length of the vector."""
    return sum(int(np.prod(s)) for s in input_shapes(shape, width))


def unpack_inputs(
    packed: Int[Array, " X"] | Int32[np.ndarray, " X"], shape: StepShape, width: int
) -> StepInputs:
    """Returns the parts of the vector, views of it where it is a NumPy array."""
    parts, start = [], 0
    for size in input_shapes(shape, width):
        end = start + int(np.prod(size))
        parts.append(packed[start:end].reshape(size))
        start = end
    return StepInputs(*parts)


def pack_inputs(
    plan: StepPlan,
    shape: StepShape,
    block_tables: Int32[np.ndarray, "S P"],
    *,
    num_drafts: Sequence[int] | Int32[np.ndarray, " D"] = (),
) -> Int32[np.ndarray, " X"]:
    """Returns the vector of a plan.

    Args:
        plan: what is to be computed.
        shape: that it is padded to.
        block_tables: of all slots; what each row reads is a copy.
        num_drafts: how many tokens are proposed after the input of each decoding row; the program is told them apart, as the
            host may not know them.
    """
    width = block_tables.shape[1]
    packed = np.zeros(packed_size(shape, width), np.int32)
    inputs = unpack_inputs(packed, shape, width)
    inputs.positions[:] = -1
    # Slots of padding are one past the end: what is written there is dropped.
    inputs.decode_slots[:] = inputs.tile_slots[:] = len(block_tables)
    _fill_decode(inputs, plan, shape, block_tables, num_drafts)
    _fill_tiles(inputs, plan, shape, block_tables)
    return packed


def _fill_decode(
    inputs: StepInputs,
    plan: StepPlan,
    shape: StepShape,
    tables: np.ndarray,
    num_drafts: Sequence[int] | np.ndarray,
) -> None:
    Q = shape.tokens_per_decode
    inputs.draws_at[: shape.num_decode_tokens] = np.arange(shape.num_decode_tokens)
    if not plan.decode:
        return
    num_rows = len(plan.decode)
    slots = np.fromiter((row.slot for row in plan.decode), np.int32, num_rows)
    inputs.decode_slots[:num_rows] = slots
    inputs.decode_tables[:num_rows] = tables[slots]
    ids, positions = inputs.ids, inputs.positions
    for index, row in enumerate(plan.decode):
        start = index * Q
        ids[start] = row.input_ids[0] if row.input_ids else UNKNOWN
        positions[start] = row.position
        if index < len(num_drafts):
            end = 1 + num_drafts[index]
            positions[start : start + end] = np.arange(row.position, row.position + end)


def _fill_tiles(inputs: StepInputs, plan: StepPlan, shape: StepShape, tables: np.ndarray) -> None:
    first, L = shape.num_decode_tokens, shape.tile_length
    tile = 0
    for index, chunk in enumerate(plan.prefill):
        count = chunk.end - chunk.start
        num_tiles = -(-count // L)
        start = first + tile * L  # A chunk's tiles lie one after the other, so its tokens do, too.
        inputs.ids[start : start + count] = chunk.token_ids
        inputs.positions[start : start + count] = np.arange(chunk.start, chunk.end)
        inputs.tile_slots[tile : tile + num_tiles] = chunk.slot
        inputs.tile_tables[tile : tile + num_tiles] = tables[chunk.slot]
        inputs.draws_at[first + index] = start + count - 1
        tile += num_tiles
    if shape.scores:
        inputs.draws_at[shape.num_draws :] = np.arange(first, shape.num_tokens)


def tile_starts(chunks: tuple[PrefillChunk, ...], tile_length: int) -> list[int]:
    """Returns where each chunk's tokens begin among those of the tiles."""
    starts, tile = [], 0
    for chunk in chunks:
        starts.append(tile * tile_length)
        tile += -(-(chunk.end - chunk.start) // tile_length)
    return starts
