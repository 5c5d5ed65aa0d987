"""`kill -9` at any moment, also during a save, and damage on top: the run goes on, bit for bit.

One command trains in one folder. It is killed again and again and started again as it was, until it
is done; every loss that was ever logged is the one of a run that nobody touched.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.programs import started
from tests.tiny import NAME, TINY, logged, losses, write_text
from trellax.experiments.cli import run

STEPS, TIMEOUT_SECONDS = 40, 180
CHANGES = ("checkpointer.save_every_steps=3", "evaluators['eval'].every_steps=6")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRELLAX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def command(folder: Path, text: str) -> list[str]:
    flags = [f"--dir={folder}", f"--steps={STEPS}", f"--text={text}"]
    return ["train", NAME, *flags, *TINY, *CHANGES]


# ---- when to kill -----------------------------------------------------------------------------------


def has_logged(step: int) -> Callable[[Path], bool]:
    """At any moment after a step."""

    def is_time(folder: Path) -> bool:
        file = folder / "metrics.jsonl"
        return file.exists() and file.read_bytes().count(b"\n") >= step

    return is_time


def is_saving(step: int) -> Callable[[Path], bool]:
    """While a checkpoint after a step is being written."""
    logged_so_far = has_logged(step)

    def is_time(folder: Path) -> bool:
        return logged_so_far(folder) and any((folder / "checkpoints").glob(".saving-*"))

    return is_time


def after(seconds: float) -> Callable[[Path], bool]:
    """While the program starts: it imports, or opens its data, or compiles."""

    def is_time(folder: Path) -> bool:
        time.sleep(seconds)
        return True

    return is_time


def killed_life(argv: list[str], folder: Path, is_time: Callable[[Path], bool]) -> None:
    """Starts the program and kills it as soon as `is_time`."""
    with started(argv) as process:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not is_time(folder):
            assert process.poll() is None, f"it ended by itself:\n{process.communicate()[0]}"
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        process.kill()
        assert process.wait() == -signal.SIGKILL


# ---- what to damage ---------------------------------------------------------------------------------


def newest_step(folder: Path) -> Path:
    return max(p for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


def largest_file(step: Path) -> Path:
    return max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_byte(step: Path) -> None:
    content = bytearray(largest_file(step).read_bytes())
    content[len(content) // 2] ^= 1
    largest_file(step).write_bytes(content)


def truncate(step: Path) -> None:
    file = largest_file(step)
    file.write_bytes(file.read_bytes()[:-7])


# ---- the test ---------------------------------------------------------------------------------------


def test_a_run_that_is_killed_and_damaged_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    text = write_text(tmp_path)
    reference, folder = tmp_path / "reference", tmp_path / "killed"
    assert run(command(reference, text)) == 0
    expected = losses(reference)
    assert list(expected) == list(range(1, STEPS + 1))

    argv, rng = command(folder, text), random.Random(20261122)
    lives: list[tuple[Callable[[Path], bool], Callable[[Path], None] | None]] = [
        (after(rng.uniform(0.5, 1.5)), None),
        (has_logged(rng.randint(4, 8)), None),
        (is_saving(rng.randint(11, 16)), flip_a_byte),
        (has_logged(rng.randint(19, 23)), truncate),
        (is_saving(rng.randint(27, 32)), None),
    ]
    damaged = []
    for is_time, damage in lives:
        killed_life(argv, folder, is_time)
        if (folder / "metrics.jsonl").exists():
            for record in logged(folder):
                assert record["loss"] == expected[record["step"]][0]
        if damage is not None:
            damaged.append(f"{newest_step(folder).name}.damaged")
            damage(newest_step(folder))
    with started(argv) as process:
        out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, out
    assert losses(folder) == expected
    assert set(damaged) <= {p.name for p in (folder / "checkpoints").iterdir()}


def test_ctrl_c_saves_the_step_that_it_stops_at_and_exits_with_130(tmp_path: Path) -> None:
    argv = command(tmp_path / "run", write_text(tmp_path))
    with started(argv) as process:
        while not has_logged(5)(tmp_path / "run"):
            assert process.poll() is None
            time.sleep(0.0005)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 130
    (said,) = (line for line in out.splitlines() if line.startswith("Stopped at step"))
    step = int(said.split()[3].rstrip(","))
    assert said == f"Stopped at step {step}, saved. Go on with the same command."
    assert newest_step(tmp_path / "run").name == f"{step:08d}"
