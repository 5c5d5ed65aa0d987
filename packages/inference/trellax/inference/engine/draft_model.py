"""`DraftModelSpeculation`: drafts from a smaller model of the same vocabulary.

    engine_cfg.speculation = DraftModelSpeculation.default_config().set(
        num_tokens=4, model=draft_cfg, params=config_for_function(read_weights).set(path="SmolLM2-135M")
    )

The draft model reads a sequence when it begins to decode, some tiles a step, so that others never wait long for it; until it has
read all, the sequence decodes without drafts. A sequence that was pre-empted is read again.
"""

from __future__ import annotations

from collections.abc import Sequence

from trellax.config import REQUIRED, InstantiableConfig, Required
from trellax.inference.engine.speculation import (
    DraftAsk,
    Speculation,
    SpeculationHost,
    StepToDraft,
)
from trellax.inference.execution import DraftInput, DraftRunner, Drafts, no_drafts
from trellax.layers import BaseLayer

_OTHER_DRAWS = 0x9E3779B9
"""Makes another seed of one: drafts that are drawn must not depend on the numbers that they are checked with."""


class _Reader:
    """How far the draft model has read a sequence.

    Attributes:
        prompt_ids: of the sequence.
        num_read: tokens at its front, perhaps with refused drafts after those that were accepted.
    """

    def __init__(self, prompt_ids: Sequence[int]):
        self.prompt_ids, self.num_read = prompt_ids, 0

    def token_ids(self, start: int, end: int, output_ids: Sequence[int]) -> list[int]:
        """Returns tokens of prompt and output by position."""
        length = len(self.prompt_ids)
        prompt, output = self.prompt_ids[start:end], output_ids[max(start - length, 0) :]
        return [*prompt, *output[: end - start - len(prompt)]]


class DraftModelSpeculation(Speculation):
    """Proposes what a draft model says, each sequence sampled as it is itself (2211.17192).

    Drafts of a sampled sequence are accepted as often as is possible at all, Σ min(p, q). If its request brings a seed it gets the
    very tokens that it gets without drafts: these are drawn with the same random numbers and accepted where they agree, which is
    less often. Greedy sequences accept what is likeliest.

    The model is served as the engine's own is: the same types, formats, layout of caches and mesh. Its cache has as many pages.
    """

    gives_probs = True

    class Config(Speculation.Config):
        """
        Fields:
            model: of the draft model in training.
            params: of what makes its parameters, a function of (model, shardings) as `build_core` takes it.
        """

        model: Required[BaseLayer.Config] = REQUIRED
        params: Required[InstantiableConfig] = REQUIRED

    _runner: DraftRunner

    def open(self, host: SpeculationHost) -> None:
        """Loads the model.

        Raises:
            ValueError: its vocabulary is another one.
        """
        model, params = host.load(self.cfg.model, self.cfg.params.instantiate())
        ours, theirs = model.vocab_size, host.sizes.vocab_size  # type: ignore[attr-defined]
        if ours != theirs:
            raise ValueError(
                f"speculation.model: the draft model has a vocabulary of {ours} tokens and the model that it drafts for one of "
                f"{theirs}; drafts are token ids, so both must have the same. Choose a draft model with the same tokenizer, or "
                f"leave out speculation."
            )
        self._runner = DraftRunner(
            *(model, params, host.sizes),
            num_tokens=self.cfg.num_tokens,
            programs=host.programs,
        )

    def warm_up(self) -> None:
        self._runner.warm_up()

    def start(self, prompt_ids: Sequence[int]) -> _Reader:
        return _Reader(prompt_ids)

    def interrupt(self, kept: _Reader) -> None:
        kept.num_read = 0

    def propose(self, asks: Sequence[DraftAsk], step: StepToDraft) -> Drafts:
        ready = self._read(asks, step)
        if not ready:
            return no_drafts(step.num_rows, self.cfg.num_tokens)
        return self._runner.draft(
            [_draft_input(ask) for ask in ready],
            num_rows=step.num_rows,
            block_tables=step.block_tables,
            is_greedy=step.is_greedy,
        )

    def _read(self, asks: Sequence[DraftAsk], step: StepToDraft) -> list[DraftAsk]:
        """Reads what is not read yet, as far as tiles go, and returns the sequences of which all but two tokens are."""
        room, length = self._runner.max_tiles, self._runner.tile_length
        parts, ready = [], []
        for ask in asks:
            reader, num_tokens = ask.kept, len(ask.kept.prompt_ids) + len(ask.output_ids)
            # Drafts that were refused are read over. The last two tokens are read with the draft.
            start, end = min(reader.num_read, num_tokens - 1), num_tokens - 2
            if start < end and room:
                reader.num_read = min(end, start + room * length)
                ids = reader.token_ids(start, reader.num_read, ask.output_ids)
                parts.append((ask.slot, start, ids))
                room -= -(-len(ids) // length)
            if reader.num_read >= end:
                ready.append(ask)
        if parts:
            self._runner.read(parts, step.block_tables)
        return ready


def _draft_input(ask: DraftAsk) -> DraftInput:
    """Returns what the draft model is told, which reads the last two tokens, and all drafts but the last."""
    reader, number = ask.kept, len(ask.output_ids)
    num_tokens = len(reader.prompt_ids) + number
    reader.num_read = num_tokens + ask.most - 1
    before, last = reader.token_ids(num_tokens - 2, num_tokens, ask.output_ids)
    is_certain = ask.params.temperature <= 0 or ask.params.seed is not None
    return DraftInput(
        index=ask.index,
        slot=ask.slot,
        position=num_tokens - 1,
        last_ids=(before, last),
        num_drafts=ask.most,
        params=ask.params,
        seed=ask.seed if is_certain else ask.seed ^ _OTHER_DRAWS,
        number=number,
        is_certain=is_certain,
    )
