"""`kill -9` at random moments of back-to-back asynchronous saves: the next life finds a good step."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

from tests.checkpoint import saving_process

NUM_KILLS = 10
TIMEOUT_SECONDS = 120


def test_a_run_killed_at_random_moments_always_goes_on(tmp_path: Path) -> None:
    rng = random.Random(20260601)
    committed = begun = 0
    for _ in range(NUM_KILLS):
        restored, committed_now, begun_now = _one_life(tmp_path, rng.uniform(0.0, 1.0))
        assert committed <= restored <= begun, "neither lost nor invented"
        committed, begun = max(restored, committed_now), max(restored, begun_now)
    assert committed > NUM_KILLS, "the lives were too short to save anything"


def _one_life(folder: Path, seconds: float) -> tuple[int, int, int]:
    """Starts the program, kills it `seconds` after it restored, and returns what it reported."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), JAX_PLATFORMS="cpu")
    process = subprocess.Popen(
        [sys.executable, saving_process.__file__, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    assert process.stdout is not None
    said = {"restored": 0, "committed": 0, "begun": 0}
    guard = threading.Timer(TIMEOUT_SECONDS, process.kill)
    guard.start()
    for line in process.stdout:
        if not line.endswith("\n"):
            break  # Cut by the kill.
        word, number = line.split()
        said[word] = int(number)
        if word == "restored":
            threading.Timer(seconds, process.kill).start()
    guard.cancel()
    assert process.wait() == -9, "it ended by itself"
    return said["restored"], said["committed"], said["begun"]
