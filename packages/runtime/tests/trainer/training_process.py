"""Trains the tiny model in the folder given as the first argument, for tests that stop it.

Usage: python training_process.py FOLDER MAX_STEPS [SECONDS_A_STEP]
"""

from __future__ import annotations

import sys
import time

from tests.tiny import tiny_trainer
from trellax.runtime import Trainer


def main() -> int:
    folder, max_steps = sys.argv[1], int(sys.argv[2])
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    trainer: Trainer = tiny_trainer(max_steps=max_steps).instantiate(directory=folder)
    put_batch = trainer.placement.put_batch

    def slowly(batch: object) -> object:
        time.sleep(pause)
        return put_batch(batch)  # type: ignore[arg-type]

    trainer.placement.put_batch = slowly  # type: ignore[assignment,method-assign]
    outcome = trainer.run()
    return 0 if outcome.stopped_by is None else 128 + outcome.stopped_by


if __name__ == "__main__":
    sys.exit(main())
