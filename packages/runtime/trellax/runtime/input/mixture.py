"""Rows of several datasets in fixed proportions.

    MixtureSequences.default_config().set(
        components={"novels": DocumentSequences.default_config(), "letters": ...},
        weights={"novels": 3.0, "letters": 1.0},
    )

K components, N length of the schedule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64

from trellax.config import REQUIRED, Required
from trellax.runtime.input.sequences import Frequencies, SequenceDataset
from trellax.runtime.input.tokenizer import Tokenizer

Shares = Int64[np.ndarray, "K"]

_SCHEDULE_LENGTH = 10_000


class MixtureSequences(SequenceDataset):
    """Draws from each component in proportion to its weight; components keep epochs of their own.

    After any number n of rows, a component has given its share of n to within one row, where
    shares are weights rounded to multiples of 1/10,000. An epoch of the mixture ends where the
    first component would begin to repeat itself.
    """

    class Config(SequenceDataset.Config):
        """What to mix.

        Attributes:
            components: datasets by name.
            weights: relative weight of each component's rows, under the same names.
        """

        components: Required[dict[str, SequenceDataset.Config]] = REQUIRED
        weights: Required[dict[str, float]] = REQUIRED

        def derive(self) -> None:
            for component in self.components.values():
                self.provide(component, sequence_length=self.sequence_length, seed=self.seed)

        def check(self) -> None:
            if set(self.components) != set(self.weights) or not self.weights:
                raise ValueError(
                    f"components are {sorted(self.components)} but weights are given for "
                    f"{sorted(self.weights)}; name each component once in both."
                )
            shares(self.weights)

    cfg: Config

    def __init__(self, cfg: Config, *, tokenizer: Tokenizer):
        super().__init__(cfg)
        self._components: list[SequenceDataset] = [
            component.instantiate(tokenizer=tokenizer) for component in cfg.components.values()
        ]
        weights = {name: cfg.weights[name] for name in cfg.components}
        self._shares = shares(weights)

    def rows(self) -> Any:
        import grain  # Lazily: for runs that read, not for configs.

        rows = [component.rows() for component in self._components]
        schedule = Schedule(self._shares, [len(r) for r in rows])
        return grain.MapDataset.select_from_datasets(rows, schedule)

    def target_frequencies(self) -> Frequencies:
        parts = [component.target_frequencies() for component in self._components]
        weights = self._shares / self._shares.sum()
        return np.sum([w * part for w, part in zip(weights, parts)], axis=0)


def shares(weights: dict[str, float]) -> Shares:
    """Returns weights as whole numbers of rows out of N, int64 [K], which add up to N.

    Raises:
        ValueError: if a weight is not positive, or under 1/N of the sum.
    """
    values = np.array(list(weights.values()), np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"weights must be positive numbers, got {dict(weights)}.")
    exact = values / values.sum() * _SCHEDULE_LENGTH
    whole = np.floor(exact).astype(np.int64)
    missing = _SCHEDULE_LENGTH - whole.sum()
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    if not whole.all():
        raise ValueError(f"a weight is under 1/{_SCHEDULE_LENGTH} of the sum: {dict(weights)}.")
    return whole


class Schedule:
    """Which component row n comes from, and which of its rows: a `grain` selection map.

    One table of N draws repeats for ever, so any n is found in constant time.
    """

    def __init__(self, rows_of: Shares, lengths: list[int]):
        """Makes the table.

        Args:
            rows_of: int [K], draws from each component in N.
            lengths: [K], rows of an epoch of each component.
        """
        common = np.gcd.reduce(rows_of)
        self._rows_of = rows_of // common
        self._period = int(self._rows_of.sum())
        self._component, self._rank = _table(self._rows_of)
        self._length = min(self._first_repeat(k, length) for k, length in enumerate(lengths))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[int, int]:
        period, place = divmod(index, self._period)
        component = int(self._component[place])
        return component, period * int(self._rows_of[component]) + int(self._rank[place])

    def _first_repeat(self, component: int, length: int) -> int:
        """Returns the n at which a component of `length` rows is asked for one more."""
        period, rank = divmod(length, int(self._rows_of[component]))
        places = np.flatnonzero(self._component == component)
        return period * self._period + int(places[rank])


def _table(rows_of: Shares) -> tuple[np.ndarray, np.ndarray]:
    """Returns (component, number of its earlier draws) of each draw in a period, both [N].

    Each draw goes to the component whose next row is due first among those that have fallen behind
    their share (Tijdeman, "The chairman assignment problem", 1980): no component is ever a whole
    row away from its share.
    """
    num_components, period = len(rows_of), int(rows_of.sum())
    if num_components == 1:
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    slack = 2 * (num_components - 1)  # Times the period: the unit of the inequality below.
    drawn = np.zeros(num_components, np.int64)
    component, rank = np.zeros(period, np.int64), np.zeros(period, np.int64)
    for n in range(period):
        behind = slack * (rows_of * (n + 1) - drawn * period)
        due = ((slack - 1) * period + slack * drawn * period) / rows_of
        k = int(np.argmin(np.where(behind >= period, due, np.inf)))
        component[n], rank[n] = k, drawn[k]
        drawn[k] += 1
    return component, rank
