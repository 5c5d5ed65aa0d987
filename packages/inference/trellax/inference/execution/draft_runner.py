"""`DraftRunner`: a small model that proposes what a larger one is to say: its caches and its few programs.

    runner = DraftRunner(model, params, sizes, num_tokens=4, programs=programs)
    runner.read([(slot, 0, prompt_ids)], block_tables)            # tokens that it has not seen yet
    drafts = runner.draft(inputs, num_rows=8, block_tables=block_tables, is_greedy=True)

Its keys and values lie in pages of its own that have the numbers of those of the model it drafts for, so a sequence has one block
table. It is told positions: those of drafts that were refused are written again.

Axes: D decoding rows, K drafts, P pages of a row, C tiles, L tokens of a tile, S slots, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from trellax.inference.execution.compiled import Program, Programs
from trellax.inference.execution.drafts import Drafts
from trellax.inference.execution.runner import RunnerSizes
from trellax.inference.requests import SamplingParams
from trellax.inference.sampling import SamplerVariant, SamplingRows, draw_draft
from trellax.layers import BaseLayer, RowGroup, TokenInfo, functional, with_updates
from trellax.parallel import constrain

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class DraftInput:
    """A sequence that drafts are wanted of. All its tokens but the last two were read.

    Attributes:
        index: of its row in the step.
        slot: the sequence's.
        position: of its last token.
        last_ids: its last two tokens.
        num_drafts: how many are wanted, at least one.
        params: how it is sampled.
        seed: of the draws of drafts.
        number: tokens of the output so far.
        is_certain: whether drafts count as certain predictions.
    """

    index: int
    slot: int
    position: int
    last_ids: tuple[int, int]
    num_drafts: int
    params: SamplingParams
    seed: int
    number: int
    is_certain: bool


class _Rows(NamedTuple):
    """Decoding rows: arrays of NumPy on the host, of JAX in the program. Padding has no drafts.

    Attributes:
        last_ids: the last two tokens of each [D, 2].
        position: of the last [D].
        num_drafts: that are wanted [D].
        slots: the sequences' [D].
        tables: their block tables [D, P].
    """

    last_ids: Any
    position: Any
    num_drafts: Any
    slots: Any
    tables: Any


class _Tiles(NamedTuple):
    """Pieces of sequences that are read, as `_Rows`.

    Attributes:
        ids: tokens [C, L].
        positions: their places [C, L], -1 for padding.
        slots: the sequences' [C].
        tables: their block tables [C, P].
    """

    ids: Any
    positions: Any
    slots: Any
    tables: Any


class DraftRunner:
    """Runs a draft model, in the order of the calls."""

    def __init__(
        self,
        model: BaseLayer,
        params: Tree,
        sizes: RunnerSizes,
        *,
        num_tokens: int,
        programs: Programs,
    ):
        """
        Args:
            model: of `serving_config`.
            params: of `serving_params`.
            sizes: of the runner that checks the drafts.
            num_tokens: K.
            programs: where its programs are kept and counted.
        """
        self._model, self._params, self._sizes = model, params, sizes
        self._num_tokens, self._programs = num_tokens, programs
        shapes = sizes.shapes.all()
        self._row_sizes = sorted({shape.decode_rows for shape in shapes} - {0})
        self._tile_sizes = sorted({shape.tiles for shape in shapes} - {0})
        with programs.scope():
            self._state = jax.jit(self._initial_state)()

    def _initial_state(self) -> Tree:
        sizes = self._sizes
        return self._model.init_state(
            batch_size=sizes.num_slots, max_length=sizes.max_length, pages=sizes.pages
        )

    @property
    def tile_length(self) -> int:
        """L."""
        return self._sizes.shapes.tile_length

    @property
    def max_tiles(self) -> int:
        """The most tiles that one call of `read` takes."""
        return self._tile_sizes[-1]

    def warm_up(self) -> None:
        """Compiles all programs."""
        tables = np.zeros((self._sizes.num_slots, self._sizes.table_width), np.int32)
        for num_tiles in self._tile_sizes:
            self._read_program(self._tiles([], num_tiles, tables))
        for num_rows in self._row_sizes:
            for is_greedy in (True, False):
                rows, sampling = self._rows([], num_rows, tables), _sampling([], num_rows)
                self._draft_program(rows, sampling, is_greedy)

    # ---- reading --------------------------------------------------------------------------------

    def read(
        self,
        parts: Sequence[tuple[int, int, Sequence[int]]],
        block_tables: Int32[np.ndarray, "S P"],
    ) -> None:
        """Starts reading tokens.

        Args:
            parts: (slot, position of the first token, tokens), which make up `max_tiles` tiles at most.
            block_tables: of all slots.
        """
        L = self.tile_length
        pieces = [
            (slot, start + at, ids[at : at + L])
            for slot, start, ids in parts
            for at in range(0, len(ids), L)
        ]
        num_tiles = next(size for size in self._tile_sizes if size >= len(pieces))
        tiles = self._tiles(pieces, num_tiles, block_tables)
        self._state = self._read_program(tiles)(self._params, self._state, tiles)

    def _tiles(
        self, pieces: Sequence[tuple[int, int, Sequence[int]]], num_tiles: int, tables: np.ndarray
    ) -> _Tiles:
        L = self.tile_length
        ids, positions = np.zeros((num_tiles, L), np.int32), np.full((num_tiles, L), -1, np.int32)
        slots = np.full(num_tiles, self._sizes.num_slots, np.int32)
        tile_tables = np.zeros((num_tiles, tables.shape[1]), np.int32)
        for tile, (slot, start, piece) in enumerate(pieces):
            ids[tile, : len(piece)] = piece
            positions[tile, : len(piece)] = np.arange(start, start + len(piece))
            slots[tile], tile_tables[tile] = slot, tables[slot]
        return _Tiles(ids, positions, slots, tile_tables)

    def _read_program(self, tiles: _Tiles) -> Program:
        def read(params: Tree, state: Tree, tiles: _Tiles) -> Tree:
            _, state = self._logits(
                params,
                state,
                tiles.ids,
                *(tiles.positions, tiles.positions >= 0, tiles.slots, tiles.tables),
            )
            return state

        args = (self._params, self._state, tiles)
        return self._programs.compiled(("read", tiles.ids.shape), read, args, donated=(1,))

    # ---- drafting -------------------------------------------------------------------------------

    def draft(
        self,
        inputs: Sequence[DraftInput],
        *,
        num_rows: int,
        block_tables: Int32[np.ndarray, "S P"],
        is_greedy: bool,
    ) -> Drafts:
        """Starts drafting; what it returns is on the device.

        Args:
            inputs: of some rows.
            num_rows: D of the step.
            block_tables: of all slots.
            is_greedy: whether no row of the step is sampled.
        """
        rows, sampling = self._rows(inputs, num_rows, block_tables), _sampling(inputs, num_rows)
        program = self._draft_program(rows, sampling, is_greedy)
        ids, probs, self._state = program(self._params, self._state, rows, sampling)
        certain = np.ones(num_rows, np.bool_)
        for one in inputs:
            certain[one.index] = one.is_certain
        return Drafts(ids, rows.num_drafts, probs, None if is_greedy else certain)

    def _rows(self, inputs: Sequence[DraftInput], num_rows: int, tables: np.ndarray) -> _Rows:
        last_ids = np.zeros((num_rows, 2), np.int32)
        position, num_drafts = np.ones(num_rows, np.int32), np.zeros(num_rows, np.int32)
        slots = np.full(num_rows, self._sizes.num_slots, np.int32)
        row_tables = np.zeros((num_rows, tables.shape[1]), np.int32)
        for one in inputs:
            last_ids[one.index], position[one.index] = one.last_ids, one.position
            num_drafts[one.index], slots[one.index] = one.num_drafts, one.slot
            row_tables[one.index] = tables[one.slot]
        return _Rows(last_ids, position, num_drafts, slots, row_tables)

    def _draft_program(self, rows: _Rows, sampling: SamplingRows, is_greedy: bool) -> Program:
        # Rows that have no top_k, top_p and min_p are sampled just the same, and at the same cost.
        variant = SamplerVariant(greedy=True) if is_greedy else SamplerVariant(truncates=True)

        def draft(params: Tree, state: Tree, rows: _Rows, sampling: SamplingRows) -> Any:
            return self._drafted(params, state, rows, sampling, variant)

        key = ("draft", rows.position.shape, is_greedy)
        args = (self._params, self._state, rows, sampling)
        return self._programs.compiled(key, draft, args, donated=(1,))

    def _drafted(
        self,
        params: Tree,
        state: Tree,
        rows: _Rows,
        sampling: SamplingRows,
        variant: SamplerVariant,
    ) -> tuple[Int[Array, "D K"], Float[Array, "D K V"] | None, Tree]:
        """Returns the drafts, their distributions, and the state, in which all but the last of them are read.

        Each pass reads two tokens a row, though but the first needs to: the token before the last was not read if it was a draft, the
        last of those that were accepted. So all passes are one, and a small model takes two tokens about as fast as one.
        """

        def draft_one(carry: tuple[Tree, Array], k: Array) -> Any:
            state, last_D2 = carry
            positions_D2 = (rows.position + k)[:, None] + jnp.arange(-1, 1)
            is_token_D2 = jnp.broadcast_to((k < rows.num_drafts)[:, None], positions_D2.shape)
            where = (positions_D2, is_token_D2, rows.slots, rows.tables)
            logits_DV, state = self._logits(params, state, last_D2, *where)
            at = dataclasses.replace(sampling, step=sampling.step + k)
            draft_D, probs_DV = draw_draft(logits_DV, at, variant=variant)
            return (state, jnp.stack([last_D2[:, 1], draft_D], axis=1)), (draft_D, probs_DV)

        steps_K = jnp.arange(self._num_tokens)
        (state, _), drafted = jax.lax.scan(draft_one, (state, rows.last_ids), steps_K)
        # Whole on each device, as the program that checks them was compiled for.
        of_rows = lambda x: constrain(jnp.moveaxis(x, 0, 1), (None,) * x.ndim)
        ids_DK, probs_DKV = jax.tree.map(of_rows, drafted)
        return ids_DK, probs_DKV, state

    def _logits(
        self,
        params: Tree,
        state: Tree,
        ids_RS: Int[Array, "R S"],
        positions_RS: Int[Array, "R S"],
        is_token_RS: Bool[Array, "R S"],
        slots_R: Int[Array, " R"],
        tables_RP: Int[Array, "R P"],
    ) -> tuple[Float[Array, "R V"], Tree]:
        """Returns the logits after the last token of each row, and the state."""
        R, S = ids_RS.shape
        flat = lambda x: x.reshape(1, R * S)
        tokens = TokenInfo(
            flat(jnp.where(is_token_RS, positions_RS, 0)),
            flat(is_token_RS.astype(jnp.int32)),
            (RowGroup(S, slots_R, tables_RP),),
        )
        logits_1RV, collection = functional(
            self._model,
            params=params,
            args=(flat(ids_RS), tokens),
            kwargs={"at_R": jnp.arange(S - 1, R * S, S)},
            state=state,
            is_training=False,
            method="logits",
        )
        return logits_1RV[0], with_updates(state, collection.state_updates)


def _sampling(inputs: Sequence[DraftInput], num_rows: int) -> SamplingRows:
    params = [SamplingParams(temperature=0.0)] * num_rows
    seeds, numbers = [0] * num_rows, [0] * num_rows
    for one in inputs:
        params[one.index] = one.params
        seeds[one.index], numbers[one.index] = one.seed, one.number
    return SamplingRows.of(params, seeds, numbers, num_rows)
