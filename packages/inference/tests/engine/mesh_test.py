"""An engine whose model lies over several devices, by heads or by experts, says what one device says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.engine import mesh_program


def over_devices(kind: str, mesh: dict[str, int], warms_up: bool) -> Any:
    """Returns the answers of a process with two devices."""
    command = [sys.executable, "-m", "tests.engine.mesh_program"]
    done = subprocess.run(
        [*command, json.dumps({"kind": kind, "mesh": mesh, "warms_up": warms_up})],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("kind", "mesh", "warms_up"),
    [
        ("rotary", {"model": 2}, True),
        ("grouped queries", {"model": 2}, False),
        ("experts", {"expert": 2}, False),
    ],
)
def test_a_model_over_two_devices_says_what_one_says(
    kind: str, mesh: dict[str, int], warms_up: bool
) -> None:
    """With all programs compiled before the first request, or each when it is needed."""
    found, expected = over_devices(kind, mesh, warms_up), mesh_program.answers(kind)
    assert found["tokens"] == expected["tokens"]
    for name, logprobs in expected["logprobs"].items():
        np.testing.assert_allclose(found["logprobs"][name], logprobs, atol=1e-5)
    assert expected["parts"] == {"params": 1, "caches": 1}
    assert found["parts"] == {"params": 2, "caches": 2 if "model" in mesh else 1}
