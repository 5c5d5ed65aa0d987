"""The program that `startup.py` measures: trains until the first step is logged, then ends at once.

    python -c 'from benchmarks import first_step; first_step.main()'

Prints one JSON object a stage. The stages of `Trainer.run` end where what it calls returns.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.measuring import Stopwatch

TRAINING_IMPORTS = (
    "trellax.experiments.cli.verbs.train, trellax.experiments.llama2, trellax.runtime, optax, grain, "
    "tokenizers, orbax.checkpoint, tensorboardX, rich.progress"
)
"""What a training run has imported by its first step or its first checkpoint."""


def main() -> None:
    clocks = Clocks()
    exec(f"import {TRAINING_IMPORTS}")
    clocks.report("imports")
    cfg = _config(clocks)
    clocks.report("config")
    with tempfile.TemporaryDirectory() as folder:
        trainer = cfg.instantiate(directory=folder)
        clocks.report("model and data")
        _report_after(trainer.program, {"init": "init", "compile": "compile"}, clocks)
        trainer.run()


class Clocks:
    """Prints what each stage took; the first one begins with the process."""

    def __init__(self) -> None:
        self._stopwatch = Stopwatch()
        self._print("python", {"wall_s": 0.0, "cpu_s": time.process_time()})

    def report(self, stage: str) -> None:
        """Ends a stage."""
        self._print(stage, self._stopwatch.lap())

    @staticmethod
    def _print(stage: str, clocks: dict[str, float]) -> None:
        print(json.dumps({"stage": stage, **clocks}), flush=True)


def _config(clocks: Clocks) -> Any:
    from trellax.config import finalize
    from trellax.experiments.resolve import resolve
    from trellax.parallel import detect_hardware
    from trellax.runtime.writers import Writer

    class EndAtFirstStep(Writer):
        """Ends the process when the first step's metrics are there."""

        def write(self, step: int, values: Mapping[str, Any]) -> None:
            clocks.report("first step")
            os._exit(0)

    cfg = resolve("llama2_7b_tpu", hardware=detect_hardware(), steps=1).cfg
    return finalize(cfg.set(writer=EndAtFirstStep.default_config()))


def _report_after(owner: Any, stages: dict[str, str], clocks: Clocks) -> None:
    """Has methods of `owner` end a stage when they return."""
    for method, stage in stages.items():
        setattr(owner, method, _then_report(getattr(owner, method), stage, clocks))


def _then_report(fn: Callable[..., Any], stage: str, clocks: Clocks) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = fn(*args, **kwargs)
        clocks.report(stage)
        return result

    return call
