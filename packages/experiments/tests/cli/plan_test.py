"""`plan` and `tune` on the command line: mistakes are one line and exit code 2; a saved step trains."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import NAME, TINY, called, losses

MISTAKES = {
    "plan without hardware": (
        ["plan", NAME],
        "`plan` needs --hardware=NAME, for example --hardware=tpu-v5p-512.",
    ),
    "tune without hardware": (
        ["tune", NAME],
        "`tune` needs --hardware=NAME, for example --hardware=tpu-v5p-512.",
    ),
    "unknown hardware": (
        ["plan", NAME, "--hardware=tpu-v9-8"],
        "Unknown chip 'tpu-v9'. Did you mean",
    ),
    "tune of several": (
        ["tune", NAME, "--hardware=tpu-v5e-4", "--hardware=trn2-16"],
        "`tune` takes one --hardware, not 2.",
    ),
    "one file for several": (
        ["plan", NAME, "--hardware=tpu-v5e-4", "--hardware=trn2-16", "--save=step"],
        "--save writes one compiled step; name one --hardware.",
    ),
    "a sweep to save": (
        ["plan", NAME, "--hardware=trn2-16", "--remat", "--save=step"],
        "--remat compiles nothing and prints a table: leave out --save and --html.",
    ),
    "no folder for the page": (
        ["plan", NAME, "--hardware=trn2-16", "--html=nowhere/plan.html"],
        "--html=nowhere/plan.html: there is no folder nowhere.",
    ),
    "a folder for the step": (
        ["plan", NAME, "--hardware=cpu", "--save=."],
        "--save=. is a folder; name a file.",
    ),
    "no folder for the rule": (
        ["tune", NAME, "--hardware=trn2-16", "--output=nowhere/rule.py"],
        "--output=nowhere/rule.py: there is no folder nowhere.",
    ),
    "tune where nothing is known": (
        ["tune", NAME, "--hardware=cpu"],
        "`tune` needs to know the memory and the speed of the hardware, and of cpu they are not",
    ),
    "a batch that the mesh does not split": (
        ["plan", NAME, "--hardware=trn2-16", "input.global_batch_size=4", "accumulation_steps=1"],
        "4 rows a pass do not divide among fsdp=16",
    ),
    "the same for a sweep": (
        [
            "plan",
            NAME,
            "--hardware=trn2-16",
            "--remat",
            "input.global_batch_size=4",
            "accumulation_steps=1",
        ],
        "4 rows a pass do not divide among fsdp=16",
    ),
    "a flag of another verb": (
        ["train", NAME, "--candidates=2"],
        "--candidates is for tune, not for `train`.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    mistake: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    argv, said = MISTAKES[mistake]
    code, out, err = called(capsys, *argv)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("trellax: ") and said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    any(importlib.util.find_spec(f"jax_cuda{v}_plugin") for v in (12, 13)),
    reason="JAX's CUDA plugin is installed",
)
def test_a_compiler_that_is_not_installed_is_one_line_that_says_what_to_install(
    capsys: Any,
) -> None:
    code, out, err = called(capsys, "plan", NAME, "--hardware=gpu-h100-64")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("trellax: gpu-h100-64: GPU programs are compiled by JAX's CUDA plugin, ")
    assert 'pip install "jax[cuda13]"' in err


def test_where_nothing_is_compiled_nothing_is_saved_and_the_plan_says_so(
    capsys: Any, tmp_path: Path
) -> None:
    file = tmp_path / "step"
    code, out, _ = called(capsys, "plan", NAME, "--hardware=trn2-16", f"--save={file}", *SMALL)
    assert code == 0 and not file.exists()
    assert f"  - {file} was not written: nothing was compiled.\n" in out


SMALL = (
    "input.global_batch_size=16",
    "input.sequence_length=32",
    "model.decoder.dim=16",
    "model.decoder.vocab_size=64",
    "model.decoder.stack.num_layers=1",
    "model.**.num_heads=4",
    "model.**.hidden_dim=32",
    "accumulation_steps=1",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step that was compiled for this machine."""
    from trellax.experiments.cli import run

    file = tmp_path_factory.mktemp("steps") / "step.trellax"
    assert run(["plan", NAME, "--hardware=cpu", f"--save={file}", *TINY, "max_steps=3"]) == 0
    return file


def test_a_saved_step_trains_as_the_one_that_training_compiles(
    saved: Path, capsys: Any, tmp_path: Path
) -> None:
    command = ("train", NAME, *TINY, "max_steps=3")
    code, _, _ = called(capsys, *command, f"--dir={tmp_path / 'a'}", f"--executable={saved}")
    assert code == 0
    assert called(capsys, *command, f"--dir={tmp_path / 'b'}")[0] == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b") and len(losses(tmp_path / "a")) == 3


def test_a_step_of_another_run_is_refused(saved: Path, capsys: Any, tmp_path: Path) -> None:
    folder = f"--dir={tmp_path / 'run'}"
    command = ("train", NAME, *TINY, "max_steps=3", "model.**.hidden_dim=48", folder)
    code, _, err = called(capsys, *command, f"--executable={saved}")
    assert code == 2 and f"{saved} was compiled for another run" in err


def test_a_step_that_is_not_there_is_refused(capsys: Any, tmp_path: Path) -> None:
    command = ("train", NAME, *TINY, f"--dir={tmp_path / 'run'}", "--executable=nowhere")
    code, _, err = called(capsys, *command)
    assert code == 2 and "--executable=nowhere: there is no such file; `plan --save` mak" in err
