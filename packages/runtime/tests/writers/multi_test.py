"""Several writers as one: all are told, and only a required one may end the run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from trellax.runtime.writers import (
    JsonlWriter,
    MultiWriter,
    TensorBoardWriter,
    Writer,
    WriterError,
    WriterWarning,
)


class Recorder(Writer):
    """Keeps what it is told in a list that outlives it."""

    calls: list[Any] = []  # noqa: RUF012 - one for the test

    def resume(self, step: int) -> None:
        self.calls.append(("resume", step))

    def write(self, step: int, values: Any) -> None:
        self.calls.append((step, dict(values), self.total_steps))

    def close(self) -> None:
        self.calls.append("close")


class Broken(Writer):
    def write(self, step: int, values: Any) -> None:
        raise WriterError("its disk is full")


@pytest.fixture(autouse=True)
def no_calls() -> None:
    Recorder.calls.clear()


def multi(tmp_path: Path, **writers: Writer.Config) -> MultiWriter:
    cfg = MultiWriter.default_config().set(writers=writers)
    return cfg.instantiate(directory=tmp_path, total_steps=9)


def test_every_writer_is_told_everything(tmp_path: Path) -> None:
    writer = multi(tmp_path, a=Recorder.default_config(), b=Recorder.default_config())
    writer.resume(2)
    writer.write(3, {"loss": 1.0})
    writer.close()
    told = [("resume", 2), (3, {"loss": 1.0}, 9), "close"]
    assert Recorder.calls == [call for call in told for _ in range(2)]


def test_a_failing_writer_is_reported_once_and_left_out(tmp_path: Path) -> None:
    writer = multi(tmp_path, bad=Broken.default_config(), good=Recorder.default_config())
    with pytest.warns(WriterWarning, match=r"Broken \(bad\).*its disk is full"):
        writer.write(1, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer.write(2, {})
    assert [call[0] for call in Recorder.calls] == [1, 2]


def test_a_required_writer_ends_the_run_after_the_others_wrote(tmp_path: Path) -> None:
    bad = Broken.default_config().set(required=True)
    writer = multi(tmp_path, bad=bad, good=Recorder.default_config())
    with pytest.raises(WriterError, match="its disk is full"):
        writer.write(1, {})
    assert len(Recorder.calls) == 1


def test_by_default_the_record_is_required_and_pictures_are_not() -> None:
    assert JsonlWriter.default_config().required and not TensorBoardWriter.default_config().required


def test_the_default_writes_the_files_of_a_run(tmp_path: Path, capsys: Any) -> None:
    writer = MultiWriter.default_config().instantiate(directory=tmp_path / "run", total_steps=1)
    writer.resume(0)
    writer.write(1, {"loss": 1.0})
    writer.close()
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"metrics.jsonl", "tensorboard"}
    assert "step 1/1" in capsys.readouterr().err


def test_the_base_says_what_a_subclass_lacks(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="Writer"):
        Writer.default_config().instantiate(directory=tmp_path).write(1, {})
