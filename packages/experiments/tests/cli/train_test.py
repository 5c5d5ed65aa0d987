"""`train` in a fresh folder, again in the same one, on the user's own text; `eval` and `generate`."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import NAME, TINY, called, logged, losses, write_text
from trellax.config import from_json
from trellax.experiments.cli import run
from trellax.experiments.resolve import resolve
from trellax.parallel import hardware_named


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRELLAX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: Any) -> str:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: Any, text: str) -> Path:
    """The folder of a run of 5 steps on the user's text."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(["train", NAME, f"--dir={folder}", "--steps=5", f"--text={text}", *TINY]) == 0
    return folder


def command(folder: Path, text: str, steps: int = 5) -> list[str]:
    return ["train", NAME, f"--dir={folder}", f"--steps={steps}", f"--text={text}", *TINY]


def test_a_run_folder_holds_what_the_run_is(finished: Path, text: str) -> None:
    assert {p.name for p in finished.iterdir()} == {
        "config.json",
        "config.py",
        "environment.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
    }
    resolved = resolve(
        NAME, hardware=hardware_named("cpu"), overrides=TINY, steps=5, text=[text]
    ).cfg
    assert from_json((finished / "config.json").read_text()) == resolved
    namespace: dict[str, Any] = {}
    exec((finished / "config.py").read_text(), namespace)
    assert namespace["config"]() == resolved
    assert [p.name for p in sorted((finished / "checkpoints").iterdir())] == [
        "00000002",
        "00000004",
        "00000005",
    ]


def test_the_environment_says_on_what_it_ran(finished: Path) -> None:
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["hardware"] == "cpu" and environment["cpus"] >= 1
    assert environment["versions"]["jax"] and environment["python"].startswith("3.")
    assert isinstance(environment["command"], list) and "git_revision" in environment


def test_metrics_have_a_line_for_each_logged_step(finished: Path) -> None:
    records = logged(finished)
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5]
    keys = {"step", "loss", "grad_norm", "learning_rate", "targets"}
    keys |= {"tokens_per_second", "step_seconds", "model_flops_per_second"}
    assert all(keys <= r.keys() and math.isfinite(r["loss"]) for r in records)
    assert [r["step"] for r in records if "eval/loss" in r] == [3, 5]
    assert records[0]["loss"] == pytest.approx(math.log(258), rel=0.05)


def test_starting_again_goes_on_and_logs_the_same(
    finished: Path, text: str, tmp_path: Path, capsys: Any
) -> None:
    for steps in (2, 5):
        code, out, _ = called(capsys, *command(tmp_path, text, steps))
        assert code == 0
    assert "(going on)" in out
    # Up to the steps of the first life, whose schedule ended with it.
    assert [r["step"] for r in logged(tmp_path)] == [1, 2, 3, 4, 5]
    assert losses(tmp_path)[1] == losses(finished)[1]


def test_starting_a_finished_run_again_trains_no_more(
    finished: Path, text: str, capsys: Any
) -> None:
    before = losses(finished)
    code, out, _ = called(capsys, *command(finished, text))
    assert code == 0 and losses(finished) == before
    assert "eval loss" in out and "training loss" not in out


def test_another_config_in_the_folder_is_refused(finished: Path, text: str, capsys: Any) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    code, _, err = called(capsys, *command(finished, text), "model.decoder.dim=32", "seed=1")
    assert code == 2
    assert err.splitlines() == [
        f"trellax: {finished} holds a run with another config; use another --dir, or drop what "
        "differs:",
        "~ model.decoder.dim   16 -> 32",
        "~ seed                0 -> 1",
    ]
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path, text: str, capsys: Any) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    code, _, err = called(capsys, *command(tmp_path, text))
    assert (code, err) == (
        2,
        f"trellax: {tmp_path} is not empty and holds no run; use another --dir.\n",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_panel_says_what_runs_and_how_to_go_on(
    finished: Path, text: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    argv = [*command(tmp_path, text, 1), "--seed=7"]
    _, out, _ = called(capsys, *argv)
    assert "Rehearsal" in out and "cpu (1 device)" in out
    assert "of the experiment: 6,738,415,616" in out
    assert re.search(r"The rule changed 1\d fields:", out) and "You changed" in out
    for line in ("ln(vocabulary)", "unigram entropy", "training loss", "eval loss", "She was"):
        assert line in out
    (longer,) = re.findall("^  train longer +(.*)$", out, re.M)
    assert sorted(shlex.split(longer)) == sorted(
        ["trellax", *[word.replace("--steps=1", "--steps=2") for word in argv]]
    )
    assert losses(tmp_path)[1] != losses(finished)[1], "a seed changes parameters and data"


def test_eval_gives_what_training_logged(finished: Path, capsys: Any) -> None:
    code, out, _ = called(capsys, "eval", NAME, f"--dir={finished}")
    logged_loss = logged(finished)[-1]["eval/loss"]
    assert code == 0 and out.splitlines()[:2] == ["step 5", f"eval/loss {logged_loss:.6g}"]
    code, out, _ = called(capsys, "eval", NAME, f"--dir={finished}", "--step=4")
    assert code == 0 and out.startswith("step 4\neval/loss ")


def test_eval_takes_overrides_and_text(finished: Path, text: str, capsys: Any) -> None:
    more = "evaluators['eval'].max_batches=4"
    _, out, _ = called(capsys, "eval", NAME, f"--dir={finished}", more)
    assert "eval/targets 256\n" in out
    code, _, _ = called(capsys, "eval", NAME, f"--dir={finished}", f"--text={text}")
    assert code == 0


def test_a_checkpoint_that_is_not_there_is_a_mistake(finished: Path, capsys: Any) -> None:
    code, _, err = called(capsys, "eval", NAME, f"--dir={finished}", "--step=3")
    assert code == 2 and err.startswith("trellax: ") and "3" in err and err.count("\n") == 1
    code, _, err = called(capsys, "eval", NAME, f"--dir={finished}", "model.decoder.dim=32")
    assert code == 2 and "decoder.embedding.weight" in err and "Traceback" not in err


def test_generate_continues_the_prompt_and_repeats_itself(finished: Path, capsys: Any) -> None:
    argv = ["generate", NAME, f"--dir={finished}", "--prompt=They walked", "--tokens=8"]
    code, out, _ = called(capsys, *argv)
    assert code == 0 and out.startswith("They walked") and len(out) > len("They walked\n")
    assert called(capsys, *argv)[1] == out
    assert called(capsys, *argv, "--seed=1")[1] != out
    greedy = [called(capsys, *argv, "--temperature=0", f"--seed={s}")[1] for s in (0, 1)]
    assert greedy[0] == greedy[1] == called(capsys, *argv, "--top_k=1")[1]
