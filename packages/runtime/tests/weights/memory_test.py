"""The host never holds much more than one tensor, however large the model is."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights import memory_process
from tests.weights.samples import gguf_file, gguf_metadata, hf_folder, raw, their_tensors, tiny

# 12 layers of 21 MB, 272 MB in all, of which a tensor is at most 8 MB.
LARGE = dataclasses.replace(
    tiny("llama", tied=True),
    num_layers=12,
    dim=1024,
    hidden_dim=1024,
    num_heads=16,
    num_kv_heads=4,
    head_dim=64,
    vocab_size=2048,
)
LARGEST_TENSOR = 2048 * 1024 * 4


@pytest.mark.parametrize("form", ["hugging_face", "gguf"])
def test_memory_beyond_the_parameters_is_about_one_tensor(form: str, tmp_path: Path) -> None:
    if form == "gguf":
        theirs = their_tensors(LARGE, form="gguf")
        tensors = {name: raw(x) for name, x in theirs.items()}
        path = gguf_file(tmp_path / "m.gguf", gguf_metadata(LARGE), tensors)
    else:
        path = hf_folder(tmp_path / "in", LARGE, their_tensors(LARGE))
    measured = run(path, tmp_path / "out")
    assert measured["params"] > 20 * LARGEST_TENSOR
    # The tensor, its copy on the device (a CPU's is the host's), what it becomes there.
    assert measured["reading"] - measured["params"] < 3 * LARGEST_TENSOR
    assert measured["writing"] < 5 * LARGEST_TENSOR  # Two copies of a tensor, and noise.


def run(path: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, memory_process.__file__, str(path), str(out)]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_file_is_many_times_a_tensor() -> None:
    sizes = [x.nbytes for x in their_tensors(LARGE, dtype=np.float32).values()]
    assert max(sizes) == LARGEST_TENSOR and sum(sizes) > 20 * LARGEST_TENSOR
