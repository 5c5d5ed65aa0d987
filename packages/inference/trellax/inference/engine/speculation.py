"""`Speculation`: tokens that are proposed after sequences' last ones, for one step to check all of them.

    engine_cfg.speculation = NgramSpeculation.default_config().set(num_tokens=4)
    speculation = cfg.speculation.instantiate()
    speculation.open(SpeculationHost(runner.sizes, runner.programs, load))
    kept = speculation.start(prompt_ids)
    drafts = speculation.propose([DraftAsk(...)], StepToDraft(...))

What is proposed changes how fast tokens come, never how they are distributed: a step accepts drafts such that tokens are as likely
as without. An interface; the engine does not know which one it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from trellax.config import Configurable
from trellax.inference.execution import Drafts, Programs, RunnerSizes
from trellax.inference.requests import SamplingParams
from trellax.layers import BaseLayer


class SpeculationHost(NamedTuple):
    """What an engine offers to those that propose.

    Attributes:
        sizes: of the steps, sequences and pages.
        programs: where what they compile is kept and counted.
        load: takes a model's config and what makes its parameters, and returns (model, parameters) as the engine runs its own.
    """

    sizes: RunnerSizes
    programs: Programs
    load: Callable[[Any, Callable[[BaseLayer, Any], Any]], tuple[BaseLayer, Any]]


@dataclasses.dataclass(frozen=True)
class DraftAsk:
    """A sequence that drafts are wanted of.

    Attributes:
        kept: what `start` returned for it.
        index: of its row in the step.
        slot: the sequence's.
        output_ids: all that was generated so far, at least one token.
        most: drafts that the step can check, at least one.
        params: how it is sampled.
        seed: of its draws.
    """

    kept: Any
    index: int
    slot: int
    output_ids: Sequence[int]
    most: int
    params: SamplingParams
    seed: int


class StepToDraft(NamedTuple):
    """The step that drafts are for.

    Attributes:
        num_rows: decoding rows of its shape, D.
        block_tables: pages of the sequences in all slots.
        is_greedy: whether none of its rows is sampled.
    """

    num_rows: int
    block_tables: Int32[np.ndarray, "S P"]
    is_greedy: bool


class Speculation(Configurable):
    """Interface: proposes tokens."""

    gives_probs: bool = False
    """Whether drafts may come with the distributions that they were drawn from."""

    class Config(Configurable.Config):
        """
        Fields:
            num_tokens: drafts of a row, at most.
        """

        num_tokens: int = 4

        def check(self) -> None:
            super().check()
            if self.num_tokens < 1:
                raise ValueError(f"num_tokens={self.num_tokens} must be at least 1.")

    def open(self, host: SpeculationHost) -> None:
        """Makes ready, before the first sequence."""

    def warm_up(self) -> None:
        """Compiles all programs that there will be."""

    def start(self, prompt_ids: Sequence[int]) -> Any:
        """Returns what is kept of a new sequence, as long as it is not dropped."""
        raise NotImplementedError

    def interrupt(self, kept: Any) -> None:
        """Takes note that a sequence has lost its slot and pages; it may come back, to others."""

    def propose(self, asks: Sequence[DraftAsk], step: StepToDraft) -> Drafts:
        """Returns drafts of what follows sequences, possibly none of some.

        Args:
            asks: sequences of the step. Once asked about, a sequence is so in each of its steps, until it ends or is interrupted.
            step: the step.
        """
        raise NotImplementedError
