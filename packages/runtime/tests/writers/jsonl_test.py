"""`metrics.jsonl` holds each step once, whole, in order, whatever interrupted the runs before."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellax.runtime.writers import JsonlWriter, WriterError, WriterWarning


def open_writer(folder: Path) -> JsonlWriter:
    return JsonlWriter.default_config().instantiate(directory=folder)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_steps(folder: Path, steps: range, resume: int = 0, tag: str = "first") -> None:
    writer = open_writer(folder)
    writer.resume(resume)
    for step in steps:
        writer.write(step, {"life": tag})
    writer.close()


def test_a_line_is_in_the_file_before_write_returns(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    writer.write(1, {"loss": 2.5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 2.5}\n'


@given(value=st.floats(width=64) | st.floats(width=32).map(np.float32) | st.integers())
def test_numbers_keep_all_their_digits(value: Any, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("run")
    writer = open_writer(folder)
    writer.write(1, {"x": value})
    writer.close()
    (record,) = records(folder)
    back = float(record["x"])
    assert back == float(value) or (math.isnan(back) and math.isnan(value))


def test_arrays_and_what_json_lacks_are_written(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    writer.write(1, {"a": jnp.float32(0.5), "b": np.arange(2), "c": math.inf, "d": "text"})
    assert records(tmp_path) == [{"step": 1, "a": 0.5, "b": [0, 1], "c": "Infinity", "d": "text"}]


def test_values_of_one_step_share_a_line(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    writer.write(1, {"loss": 3.0})
    writer.write(2, {"loss": 2.0, "note": "a longer value"})
    writer.write(2, {"eval/loss": 2.5, "note": ""})
    writer.write(3, {"loss": 1.0})
    assert records(tmp_path)[1:] == [
        {"step": 2, "loss": 2.0, "note": "", "eval/loss": 2.5},
        {"step": 3, "loss": 1.0},
    ]


def test_a_step_of_the_life_before_is_continued(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 4))
    writer = open_writer(tmp_path)
    writer.resume(3)
    writer.write(3, {"eval": 1})
    assert records(tmp_path)[-1] == {"step": 3, "life": "first", "eval": 1}


@given(first=st.integers(1, 12), resume=st.integers(0, 12), more=st.integers(0, 5))
def test_after_resuming_each_step_appears_once(
    first: int, resume: int, more: int, tmp_path_factory: Any
) -> None:
    folder, resume = tmp_path_factory.mktemp("run"), min(resume, first)
    write_steps(folder, range(1, first + 1))
    write_steps(folder, range(resume + 1, resume + 1 + more), resume=resume, tag="second")
    lives = [(r["step"], r["life"]) for r in records(folder)]
    old = [(s, "first") for s in range(1, resume + 1)]
    assert lives == old + [(s, "second") for s in range(resume + 1, resume + 1 + more)]


@pytest.mark.parametrize("torn", ['{"step": 4, "lo', '{"step"', "\0\0\0", "4}"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_torn_last_line_is_repaired(tmp_path: Path, torn: str, resume: bool) -> None:
    write_steps(tmp_path, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    writer = open_writer(tmp_path)
    if resume:
        with pytest.warns(WriterWarning, match=r"metrics.jsonl:4: a torn line"):
            writer.resume(3)
    writer.write(4, {"life": "second"})
    assert [r["step"] for r in records(tmp_path)] == [1, 2, 3, 4]


def test_a_whole_last_line_without_its_newline_stays(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}')
    writer = open_writer(tmp_path)
    writer.write(2, {"loss": 1.0})
    assert [r["loss"] for r in records(tmp_path)] == [2.0, 1.0]


def test_a_step_that_goes_back_is_refused(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 4))
    writer = open_writer(tmp_path)
    with pytest.raises(ValueError, match=r"ends at step 3, but step 2 .*resume"):
        writer.write(2, {})


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(WriterError, match="run/metrics.jsonl"):
        open_writer(tmp_path / "run").write(1, {})


@pytest.mark.parametrize("written", [0, 7])
def test_a_full_disk_is_named_and_leaves_whole_lines(
    tmp_path: Path, monkeypatch: Any, written: int
) -> None:
    pwrite = os.pwrite

    def fill_the_disk(descriptor: int, data: bytes, at: int) -> int:
        if written:
            return pwrite(descriptor, data[:written], at)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = open_writer(tmp_path)
    writer.write(1, {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fill_the_disk)
        with pytest.raises(WriterError, match=r"metrics.jsonl cannot be written"):
            writer.write(2, {"loss": 1.0})
    writer.write(2, {"loss": 0.5})
    assert [r["loss"] for r in records(tmp_path)] == [1.0, 0.5]


PROGRAM = """
import sys
from trellax.runtime.writers import JsonlWriter
writer = JsonlWriter.default_config().instantiate(directory=sys.argv[1])
writer.resume(int(sys.argv[2]))
for step in range(int(sys.argv[2]) + 1, 10**9):
    writer.write(step, {"loss": 1 / step, "text": "x" * 5000})
    print(step, flush=True)
"""


def test_a_killed_run_loses_no_line_that_was_written(tmp_path: Path) -> None:
    last = 0
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    for lines in (1, 40, 200):
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path), str(last)]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(lines):
                written = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        # The system may stop the write that is under way at the kill between two pages.
        text = (tmp_path / "metrics.jsonl").read_text()
        steps = [json.loads(line)["step"] for line in text.split("\n")[:-1]]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) >= written
        last = len(steps) // 2
