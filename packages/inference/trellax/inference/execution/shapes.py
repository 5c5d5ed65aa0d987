"""`StepShape`: the sizes of one compiled step, and the few that there are.

    shapes = StepShapes(max_sequences=32, max_prefill_tokens=512, tile_length=32)
    shape = shapes.fitting(num_decode=5, num_tiles=3)

A program is compiled for fixed sizes, so steps are padded to the next size that there is. Few sizes mean few programs to compile
before the first request; a step of prompts does so much work that padding of its decoding rows does not count.

A chunk of a prompt is computed in *tiles* of a fixed length, so that chunks of any lengths make up one group of rows and
less than a tile of each is padding. Plans count the padding.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools

from trellax.inference.scheduling import StepPlan


@dataclasses.dataclass(frozen=True)
class StepShape:
    """Sizes of a step.

    Attributes:
        decode_rows: sequences that generate.
        tokens_per_decode: tokens of each: 1, or with a draft more.
        tiles: tiles of prompts.
        tile_length: tokens of a tile.
        prefill_draws: prompts that may end in the step, so that their next token is drawn.
        scores: whether logits of all tokens of the tiles are wanted, too.
    """

    decode_rows: int
    tokens_per_decode: int
    tiles: int
    tile_length: int
    prefill_draws: int
    scores: bool = False

    @property
    def num_decode_tokens(self) -> int:
        return self.decode_rows * self.tokens_per_decode

    @property
    def num_tokens(self) -> int:
        """Tokens of the flat batch."""
        return self.num_decode_tokens + self.tiles * self.tile_length

    @property
    def num_draws(self) -> int:
        """Rows of logits from which tokens are drawn or checked."""
        return self.num_decode_tokens + self.prefill_draws

    def __str__(self) -> str:
        scores = ", all scored" if self.scores else ""
        return (
            f"{self.decode_rows} x {self.tokens_per_decode} decoding and {self.tiles} x {self.tile_length} prompt "
            f"tokens{scores}"
        )


@dataclasses.dataclass(frozen=True)
class StepShapes:
    """The shapes that steps are padded to.

    Attributes:
        max_sequences: sequences that run at once.
        max_prefill_tokens: tokens of tiles in a step.
        tile_length: tokens of a tile.
        max_prefill_rows: prompts in a step.
        tokens_per_decode: 1, or with drafts more.
        is_fixed: one size only for decoding and one for prompts, never both in a step: then what a row gets cannot depend on
            what else runs.
    """

    max_sequences: int
    max_prefill_tokens: int
    tile_length: int
    max_prefill_rows: int
    tokens_per_decode: int = 1
    is_fixed: bool = False

    @functools.cached_property
    def max_tiles(self) -> int:
        """Tiles of the fullest step: what a prompt leaves empty of its last one counts as tokens."""
        return self.max_prefill_tokens // self.tile_length

    @functools.cached_property
    def decode_sizes(self) -> tuple[int, ...]:
        """Numbers of decoding rows of steps without prompts."""
        return (self.max_sequences,) if self.is_fixed else _powers(2, self.max_sequences, 1)

    @functools.cached_property
    def mixed_decode_sizes(self) -> tuple[int, ...]:
        """The same of steps with prompts."""
        return (0,) if self.is_fixed else (0, *_powers(4, self.max_sequences, 8))

    @functools.cached_property
    def tile_sizes(self) -> tuple[int, ...]:
        """Numbers of tiles."""
        return (self.max_tiles,) if self.is_fixed else _powers(2, self.max_tiles, 2)

    def fitting(self, *, num_decode: int, num_tiles: int, scores: bool = False) -> StepShape:
        """Returns the least shape that holds a step. There is one only for scores, which are seldom asked for."""
        if scores:
            return self._shape(self.mixed_decode_sizes[-1], self.max_tiles, scores=True)
        if not num_tiles:
            return self._shape(_at_least(self.decode_sizes, num_decode), 0)
        decode_rows = _at_least(self.mixed_decode_sizes, num_decode)
        return self._shape(decode_rows, _at_least(self.tile_sizes, num_tiles))

    def of_plan(self, plan: StepPlan, *, scores: bool = False) -> StepShape:
        """Returns the shape for a plan."""
        tiles = sum(-(-(chunk.end - chunk.start) // self.tile_length) for chunk in plan.prefill)
        return self.fitting(num_decode=len(plan.decode), num_tiles=tiles, scores=scores)

    def all(self) -> list[StepShape]:
        """Returns every shape, those that steps have most often first."""
        decode = [self._shape(rows, 0) for rows in self.decode_sizes]
        mixed = [self._shape(r, t) for t in self.tile_sizes for r in self.mixed_decode_sizes]
        return [*decode, *mixed, self.fitting(num_decode=0, num_tiles=1, scores=True)]

    def _shape(self, decode_rows: int, tiles: int, *, scores: bool = False) -> StepShape:
        return StepShape(
            decode_rows=decode_rows,
            tokens_per_decode=self.tokens_per_decode,
            tiles=tiles,
            tile_length=self.tile_length,
            prefill_draws=self.max_prefill_rows if tiles else 0,
            scores=scores,
        )


def _powers(base: int, largest: int, first: int) -> tuple[int, ...]:
    """Returns first, first·base, … and `largest`."""
    sizes = []
    size = first
    while size < largest:
        sizes.append(size)
        size *= base
    return (*sizes, largest)


def _at_least(sizes: tuple[int, ...], wanted: int) -> int:
    return sizes[bisect.bisect_left(sizes, wanted)]
