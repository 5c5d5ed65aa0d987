"""Logits sharded over devices give the same tokens, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.sampling import sharded_process


def test_logits_sharded_over_a_mesh_axis_give_the_same_tokens() -> None:
    # A process of its own, since this one's number of devices is settled.
    command = [sys.executable, "-m", sharded_process.__name__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    one, four = (json.loads(line) for line in done.stdout.splitlines())
    assert one == four
    assert len({row[0] for row in one}) > 5
