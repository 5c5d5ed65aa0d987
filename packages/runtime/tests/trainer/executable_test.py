"""A compiled train step is a file: the run that loads it gets the same losses and compiles no step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tests.tiny import tiny_trainer
from tests.trainer import executable_process
from trellax.config import finalize
from trellax.runtime import TrainProgram
from trellax.runtime.trainer.executable import ExecutableMismatchError

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    "JAX_ENABLE_COMPILATION_CACHE": "0",
}


def saved(cfg: object, file: Path) -> int:
    program = TrainProgram(finalize(cfg))
    lowered = program.trace().lower()
    return program.save(file, lowered, lowered.compile())


def test_another_process_runs_it_with_the_same_losses(tmp_path: Path) -> None:
    file = tmp_path / "step.trellax"
    assert saved(tiny_trainer(max_steps=3), file) == file.stat().st_size

    def losses(name: str, executable: str) -> list[float]:
        arguments = [str(jax.device_count()), str(tmp_path / name), executable]
        command = [sys.executable, executable_process.__file__, *arguments]
        subprocess.run(command, check=True, env=ENVIRONMENT)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [r["loss"] for r in map(json.loads, lines) if "loss" in r]

    assert losses("loaded", str(file)) == losses("compiled", "") != []


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "step.trellax"
    saved(tiny_trainer(), file)
    other = tiny_trainer()
    other.learner.schedule.peak = 1e-3
    trainer = other.instantiate(directory=str(tmp_path / "run"), executable=str(file))
    with pytest.raises(ExecutableMismatchError, match="compile it again.*\n.*program"):
        trainer.run()


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04N."])
def test_a_file_that_holds_no_program_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "step.trellax"
    file.write_bytes(content)
    trainer = tiny_trainer().instantiate(directory=str(tmp_path / "run"), executable=str(file))
    with pytest.raises(ExecutableMismatchError, match="holds no compiled train step"):
        trainer.run()


def test_the_compilation_cache_is_on_and_the_users_choice_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("TRELLAX_CACHE_DIR", str(tmp_path))
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        tiny_trainer().instantiate(directory=str(tmp_path / "run"))
        assert jax.config.jax_compilation_cache_dir.startswith(f"{tmp_path}/compiled/cpu-")
        jax.config.update("jax_compilation_cache_dir", "/chosen")
        tiny_trainer().instantiate(directory=str(tmp_path / "run"))
        assert jax.config.jax_compilation_cache_dir == "/chosen"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
