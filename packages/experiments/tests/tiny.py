"""The command line in this process, on an experiment that overrides make tiny.

code, out, err = called(capsys, "train", "llama2_7b_tpu", "--dir=run", *TINY)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trellax.experiments.cli import run

NAME = "llama2_7b_tpu"
TINY = (
    "**.tokenizer=trellax.runtime.input:ByteTokenizer",
    "**.global_batch_size=4",
    "input.sequence_length=16",
    "evaluators['eval'].input.sequence_length=16",
    "evaluators['eval'].max_batches=2",
    "evaluators['eval'].every_steps=3",
    "model.decoder.dim=16",
    "model.decoder.vocab_size=258",
    "model.decoder.stack.num_layers=1",
    "model.**.num_heads=2",
    "model.**.hidden_dim=32",
    "log_every_steps=1",
    "checkpointer.save_every_steps=2",
)
"""What makes a rehearsal train in a second; it evaluates and saves often."""

TEXT = (
    "She was glad of it, and said so.\n\nHe was not, and said nothing.\n\n"
    "They walked on to the end of the lane, where the others waited for them.\n\n"
)


def write_text(folder: Path) -> str:
    """Writes a small text to train on and returns its path."""
    file = folder / "my_text.txt"
    file.write_text(TEXT * 200)
    return str(file)


def called(capsys: Any, *argv: str) -> tuple[int, str, str]:
    """Runs the command line and returns (exit code, stdout, stderr)."""
    capsys.readouterr()
    code = run(argv)
    out, err = capsys.readouterr()
    return code, out, err


def logged(folder: Path) -> list[dict[str, Any]]:
    """Returns the records of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, tuple[float, float | None]]:
    """Returns {step: (training loss, held-out loss where there is one)} of a run."""
    return {r["step"]: (r["loss"], r.get("eval/loss")) for r in logged(folder)}
