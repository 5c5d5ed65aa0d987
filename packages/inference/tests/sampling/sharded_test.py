"""Logits sharded over devices give the same tokens, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_logits_sharded_over_a_mesh_axis_give_the_same_tokens() -> None:
    # A process of its own, since this one's number of devices is settled.
    script = Path(__file__).with_name("sharded_process.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, four = (json.loads(line) for line in done.stdout.splitlines())
    assert one == four
    assert len({row[0] for row in one}) > 5
