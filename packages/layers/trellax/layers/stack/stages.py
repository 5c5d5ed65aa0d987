"""Which layers run on which stage of a pipeline, and which microbatch a stage has when.

    plan = StagePlan.of(num_layers=32, stages=4, repeats=1, microbatches=8)
    bubble_fraction(stages=4, microbatches=8)  # 3 / 11

A *chunk* is what a stage runs in one tick: consecutive layers. Stage s has the chunks s, s + P, …: one, or
`repeats` of them in the circular schedule. A microbatch enters stage 0 in the tick that is its *entry*, and is on
stage s in the tick entry + s.

Axes: M microbatches, P stages, V repeats, K layers of the longest chunk, L layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Schedule = Literal["gpipe", "circular", "1f1b"]


def bubble_fraction(
    stages: int, microbatches: int, repeats: int = 1, schedule: Schedule = "gpipe"
) -> float:
    """Returns the share of a step's ticks in which a stage has nothing to do, for stages that are equally long.

    (P - 1) / (M + P - 1) for "gpipe" (Huang et al. 2018, arXiv:1811.06965, section 2.3) and "1f1b" (Narayanan et al.
    2020, arXiv:2006.09503), which differ in memory alone; (P - 1) / (V · M + P - 1) for "circular" (Narayanan et al.
    2021, arXiv:2104.04473, section 2.2).

    Args:
        stages: P.
        microbatches: M.
        repeats: V, 1 unless the schedule is circular.
        schedule: the order of work.

    Raises:
        ValueError: for counts below 1, or repeats of a schedule that has none.
    """
    if min(stages, microbatches, repeats) < 1:
        raise ValueError(f"{stages=}, {microbatches=}, {repeats=}: each must be at least 1.")
    if repeats > 1 and schedule != "circular":
        raise ValueError(f'{repeats=} with schedule="{schedule}"; only "circular" has repeats.')
    return (stages - 1) / (repeats * microbatches + stages - 1)


def even_chunks(num_layers: int, chunks: int) -> tuple[int, ...]:
    """Returns numbers of layers that differ by one at most, larger ones first."""
    least, more = divmod(num_layers, chunks)
    return (least + 1,) * more + (least,) * (chunks - more)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """Who does what. All of it is known when the program is traced."""

    stages: int
    """P."""
    repeats: int
    """V."""
    microbatches: int
    """M."""
    chunk_sizes: tuple[int, ...]
    """Layers of each of the V · P chunks."""

    @property
    def ticks(self) -> int:
        """Ticks of a forward pass: V · M + P - 1."""
        return self.repeats * self.microbatches + self.stages - 1

    @property
    def is_even(self) -> bool:
        """Whether all chunks are equally long."""
        return len(set(self.chunk_sizes)) == 1

    def layer_indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the indices of the layers, int32 `[P, V, K]`, and which of them are real.

        Short chunks are filled up with copies of their last layer, whose results are not used: zeros in place of
        weights could make infinities, and those times zero are not zero.
        """
        last_C = np.cumsum(self.chunk_sizes)
        first_C = last_C - self.chunk_sizes
        wanted_CK = first_C[:, None] + np.arange(max(self.chunk_sizes))
        real_CK = wanted_CK < last_C[:, None]
        index_CK = np.minimum(wanted_CK, last_C[:, None] - 1).astype(np.int32)
        by_stage = lambda x: x.reshape(self.repeats, self.stages, -1).swapaxes(0, 1)
        return by_stage(index_CK), by_stage(real_CK)

    def chunked(self, tree: Any) -> Any:
        """Returns arrays `[L, ...]` as `[P, V, K, ...]`."""
        index_PVK, _ = self.layer_indices()
        if self.is_even:
            shape = (self.repeats, self.stages, index_PVK.shape[2])
            return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]).swapaxes(0, 1), tree)
        return jax.tree.map(lambda x: x[index_PVK], tree)

    def microbatch_at(self, entry: Any) -> tuple[Any, Any]:
        """Returns which microbatch enters stage 0 in a tick, and how many rounds it has behind it.

        Groups of P microbatches go round V times before the next group enters, so what comes out of the last stage
        goes into the first in the very next tick, and nothing has to wait anywhere.
        """
        group, within = entry // (self.repeats * self.stages), entry % (self.repeats * self.stages)
        return group * self.stages + within % self.stages, within // self.stages

    def clipped(self, entry: Any) -> Any:
        """Returns the nearest entry of a microbatch: idle stages repeat real work, so that no garbage overflows."""
        return jnp.clip(entry, 0, self.repeats * self.microbatches - 1)

    def is_real(self, entry: Any) -> Any:
        """Returns whether any microbatch enters then."""
        return (entry >= 0) & (entry < self.repeats * self.microbatches)

    def by_layer(self, outputs: Any) -> Any:
        """Returns what stages put out in each tick, arrays `[ticks, P, K, ...]`, as `[M, L, ...]`."""
        micro_E, round_E = self.microbatch_at(np.arange(self.repeats * self.microbatches))
        entry_MV = np.zeros((self.microbatches, self.repeats), np.int32)
        entry_MV[micro_E, round_E] = np.arange(self.repeats * self.microbatches)
        stage_P = np.arange(self.stages)
        tick_MVP = entry_MV[:, :, None] + stage_P
        _, real_PVK = self.layer_indices()
        real_N = np.flatnonzero(real_PVK.swapaxes(0, 1))

        def gather(x: jax.Array) -> jax.Array:
            x_MVPK = x[tick_MVP, np.broadcast_to(stage_P, tick_MVP.shape)]
            x_MN = x_MVPK.reshape(self.microbatches, -1, *x.shape[3:])
            return x_MN if self.is_even else x_MN[:, real_N]

        return jax.tree.map(gather, outputs)
