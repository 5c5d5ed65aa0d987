"""Evaluation: the mean loss over held-out batches, every so many steps and at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

from trellax.config import Configurable
from trellax.runtime.input import Input

Tree = dict[str, Any]


class Evaluator(Configurable):
    """Runs a compiled evaluation step over one pass of its input."""

    class Config(Configurable.Config):
        """
        Fields:
            input: finite input, or one that is cut by `max_batches`.
            every_steps: evaluate after so many training steps; None: only at the end.
            max_batches: at most so many batches; None: all.
        """

        input: Input.Config = Input.default_config()
        every_steps: int | None = None
        max_batches: int | None = None

    def __init__(
        self,
        cfg: Config,
        *,
        name: str,
        step_fn: Callable[[Tree, Tree], Tree],
        put_batch: Callable[[Any], Tree],
        process_index: int = 0,
        num_processes: int = 1,
    ):
        """
        Args:
            name: prefix of the metrics.
            step_fn: (params, batch) to {"total", "weight"}, jitted.
            put_batch: from host rows to device arrays.
            process_index: which process this is.
            num_processes: of how many.
        """
        super().__init__(cfg)
        self.name = name
        self._step_fn = step_fn
        self._put_batch = put_batch
        self.input = cfg.input.instantiate(process_index=process_index, num_processes=num_processes)

    def is_due(self, step: int) -> bool:
        """Whether to evaluate after `step` steps."""
        return bool(self.cfg.every_steps) and step % self.cfg.every_steps == 0

    def evaluate(self, params: Tree) -> dict[str, float]:
        """Returns {"<name>/loss": mean over targets, "<name>/perplexity", "<name>/targets"}."""
        outputs = [
            self._step_fn(params, self._put_batch(batch))
            for _, batch in zip(range(self._num_batches()), self.input.batches(0), strict=False)
        ]
        sums = jax.device_get([(o["total"], o["weight"]) for o in outputs])
        total, weight = (math.fsum(float(s[i]) for s in sums) for i in (0, 1))
        if not weight:
            raise ValueError(f"{self.name}: the evaluation input has no targets.")
        loss = total / weight
        values = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "targets": weight}
        return {f"{self.name}/{k}": v for k, v in values.items()}

    def _num_batches(self) -> int:
        available = self.input.num_batches_per_epoch
        return available if self.cfg.max_batches is None else min(available, self.cfg.max_batches)
