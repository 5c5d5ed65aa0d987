"""TensorBoard reads what was written, and forgets what a resumed run went back behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trellax.runtime.writers import TensorBoardWriter


def open_writer(folder: Path) -> TensorBoardWriter:
    return TensorBoardWriter.default_config().instantiate(directory=folder)


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = accumulators.EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def test_tensorboard_reads_the_scalars(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    writer.write(1, {"loss": np.float32(3.5), "note": "text", "steps": 4, "list": [1, 2]})
    writer.write(2, {"loss": 2.5})
    writer.close()
    assert scalars(tmp_path, "loss") == [(1, 3.5), (2, 2.5)]
    assert scalars(tmp_path, "steps") == [(1, 4.0)]


def test_a_resumed_run_supersedes_later_steps(tmp_path: Path, monkeypatch: Any) -> None:
    for resume, value in ((0, 1.0), (3, 2.0)):
        clock = 1_700_000_000 + resume
        monkeypatch.setattr("time.time", lambda clock=clock: clock)  # Files are read by their time.
        writer = open_writer(tmp_path)
        writer.resume(resume)
        for step in range(resume + 1, 6 - resume // 3):
            writer.write(step, {"loss": value})
        writer.close()
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]


def test_tensorflow_is_not_imported_and_tensorboardx_only_when_needed(tmp_path: Path) -> None:
    program = (
        "import sys; from trellax.runtime.writers import TensorBoardWriter as W;"
        "w = W.default_config().instantiate(directory=sys.argv[1]); w.resume(0);"
        "assert 'tensorboardX' not in sys.modules;"
        "w.write(1, {'loss': 1.0}); w.close();"
        "assert not {'tensorflow', 'torch'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"]
    subprocess.run([*command, str(tmp_path)], check=True)
