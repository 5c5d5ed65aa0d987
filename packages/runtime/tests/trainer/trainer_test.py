"""Whole runs of the trainer: what it logs, how it stops, resumes and fails."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_input, tiny_trainer
from tests.trainer import training_process
from trellax.config import ConfigError, finalize
from trellax.runtime import Checkpointer, NonFiniteError, Profiler
from trellax.runtime.trainer import Trainer
from trellax.runtime.writers import JsonlWriter

ENVIRONMENT = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))


def train(directory: Path, **fields: Any) -> Any:
    return tiny_trainer().set(**fields).instantiate(directory=str(directory)).run()


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def losses(directory: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines(directory)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted")
    train(directory)
    return directory


def test_a_run_learns_and_logs_what_happened(uninterrupted: Path) -> None:
    logged = lines(uninterrupted)
    assert [line["step"] for line in logged] == list(range(1, 9))
    assert logged[-1]["loss"] < logged[0]["loss"] - 0.5
    assert abs(logged[0]["loss"] - math.log(320)) < 1.0
    last = logged[-1]
    assert {"tokens_per_second", "step_seconds", "grad_norm", "learning_rate"} <= last.keys()
    assert "mfu" not in last  # No peak is published for CPUs.
    assert last["eval/perplexity"] == pytest.approx(math.exp(last["eval/loss"]))
    speed = last["tokens_per_second"] * last["step_seconds"]
    assert speed == pytest.approx(4 * 16)


def test_a_second_start_resumes_and_later_losses_have_the_same_bits(
    uninterrupted: Path, tmp_path: Path
) -> None:
    train(tmp_path, max_steps=4)
    train(tmp_path)
    assert losses(tmp_path) == losses(uninterrupted)


def test_accumulation_changes_no_loss_beyond_rounding(uninterrupted: Path, tmp_path: Path) -> None:
    train(tmp_path, accumulation_steps=2)
    for step, loss in losses(uninterrupted).items():
        assert losses(tmp_path)[step] == pytest.approx(loss, rel=2e-4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_and_exits_with_its_code(
    uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, training_process.__file__, str(tmp_path), "8", "0.3"]
    with subprocess.Popen(command, env=ENVIRONMENT) as process:
        metrics = tmp_path / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not metrics.exists() or not metrics.read_text():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    stopped_at = max(losses(tmp_path))
    assert stopped_at < 8
    assert (
        Checkpointer.default_config().instantiate(directory=tmp_path / "checkpoints").latest_step()
        == stopped_at
    )
    assert subprocess.run([*command[:-1], "0"], env=ENVIRONMENT, check=False).returncode == 0
    assert losses(tmp_path) == losses(uninterrupted)


def test_too_many_bad_steps_in_a_row_end_the_run_and_keep_the_good_state(tmp_path: Path) -> None:
    trainer = tiny_trainer().set(max_consecutive_skips=2).instantiate(directory=str(tmp_path))
    make = trainer.program.step.init
    weight_path = ("params", "decoder", "embedding", "weight")

    def poisoned() -> Any:
        state = make()
        node = state
        for name in weight_path[:-1]:
            node = node[name]
        node[weight_path[-1]] = jnp.full_like(node[weight_path[-1]], jnp.nan)
        return state

    trainer.program.step.init = poisoned
    with pytest.raises(NonFiniteError, match="2 steps in a row.*state is that of step 0"):
        trainer.run()


def test_a_finished_run_trains_no_more(tmp_path: Path, uninterrupted: Path) -> None:
    train(tmp_path, max_steps=2)
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    outcome = train(tmp_path, max_steps=2)
    assert outcome.step == 2
    assert (tmp_path / "metrics.jsonl").read_text().splitlines()[0] == before


def test_chosen_steps_are_profiled(tmp_path: Path) -> None:
    profiler = Profiler.default_config().set(start_steps=(2,), num_steps=2)
    train(tmp_path, max_steps=4, profiler=profiler)
    assert list((tmp_path / "profile" / "step_2").rglob("*.xplane.pb"))


def test_a_batch_that_does_not_split_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 rows does not split into accumulation_steps=3"):
        tiny_trainer().set(accumulation_steps=3).instantiate(directory=str(tmp_path))


def test_a_vocabulary_that_is_too_small_is_refused(tmp_path: Path) -> None:
    cfg = tiny_trainer()
    cfg.set_at("model.decoder.vocab_size", 100)
    with pytest.raises(ValueError, match="more than the model's vocabulary of 100"):
        cfg.instantiate(directory=str(tmp_path))


def test_bad_lengths_are_found_before_anything_is_built() -> None:
    with pytest.raises(ConfigError, match="max_steps=0 must be at least 1"):
        finalize(tiny_trainer(max_steps=0))


def test_restoring_gives_the_saved_state(tmp_path: Path) -> None:
    trainer: Trainer = tiny_trainer(max_steps=3).instantiate(directory=str(tmp_path))
    outcome = trainer.run()
    step, state = trainer.restore()
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, state, outcome.state)


def test_a_run_may_go_without_checkpoints_and_evaluations(tmp_path: Path) -> None:
    outcome = train(tmp_path, checkpointer=None, evaluators={}, max_steps=2)
    assert outcome.step == 2
    assert not (tmp_path / "checkpoints").exists()


def test_every_part_can_be_replaced_by_config_alone(tmp_path: Path) -> None:
    outcome = train(
        tmp_path,
        input=tiny_input(batch_size=2, length=8),
        writer=JsonlWriter.default_config(),
        max_steps=2,
    )
    assert outcome.metrics["targets"] <= 16
