"""Progress is a bar in a terminal and plain, sparse lines in a log."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from trellax.runtime.writers import ProgressWriter


def run(steps: int, tmp_path: Path, *, terminal: bool, **fields: Any) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100)
    writer = (
        ProgressWriter.default_config()
        .set(**fields)
        .instantiate(directory=tmp_path, total_steps=10, console=console)
    )
    writer.resume(0)
    for step in range(1, steps + 1):
        writer.write(step, {"loss": 8 / step, "tokens_per_second": 12345.6, "other": 1})
    writer.close()
    return file.getvalue()


def test_a_log_gets_the_first_and_the_last_step(tmp_path: Path) -> None:
    lines = run(10, tmp_path, terminal=False).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/10", "step 10/10"]
    assert lines[1] == "step 10/10  loss 0.8000  tokens/s 12,346"
    assert "ETA 0:00:0" in lines[0]


def test_a_log_gets_a_line_each_interval(tmp_path: Path) -> None:
    assert len(run(10, tmp_path, terminal=False, line_seconds=0.0).splitlines()) == 10


def test_a_log_has_no_control_codes(tmp_path: Path) -> None:
    text = run(10, tmp_path, terminal=False, line_seconds=0.0)
    assert all(character.isprintable() or character == "\n" for character in text)


def test_a_run_that_stops_early_shows_its_last_step(tmp_path: Path) -> None:
    assert run(7, tmp_path, terminal=False).splitlines()[-1].startswith("step 7/10")


def test_an_evaluation_of_a_shown_step_adds_no_line(tmp_path: Path, capsys: Any) -> None:
    writer = ProgressWriter.default_config().instantiate(directory=tmp_path, total_steps=1)
    writer.write(1, {"loss": 1.0})
    writer.write(1, {"eval/loss": 1.0})
    writer.close()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_terminal_gets_a_bar_that_ends_whole(tmp_path: Path) -> None:
    text = run(10, tmp_path, terminal=True, refresh_seconds=0.0)
    assert "3/10" in text and "10/10" in text and "━" in text and "loss 0.8000" in text
    assert text.endswith("\x1b[?25h"), "the cursor is shown again"
