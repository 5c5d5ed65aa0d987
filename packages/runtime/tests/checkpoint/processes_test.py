"""Two processes save one state together, and walk back to the same step."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.checkpoint import two_processes


def test_two_processes_agree_on_the_step(tmp_path: Path) -> None:
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), JAX_PLATFORMS="cpu")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    running = [
        subprocess.Popen(
            [
                sys.executable,
                two_processes.__file__,
                port,
                str(index),
                str(tmp_path / "checkpoints"),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for index in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)
