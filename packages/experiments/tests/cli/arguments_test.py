"""Every mistake on the command line: exit code 2, one clear line on stderr, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import recipes_of_others
from tests.tiny import NAME, TINY, called
from trellax.experiments.cli.arguments import VERBS, UsageError, parse, usage

MISTAKES = {
    "unknown verb": (
        ["trian", NAME],
        "There is no verb 'trian'. Did you mean 'train'? "
        "Verbs: train, eval, generate, chat, serve, batch, show, diff, html, plan, tune, list.",
    ),
    "unknown experiment in place of a verb": (
        ["llama2_7b_tup"],
        "There is no verb 'llama2_7b_tup'. Did you mean 'llama2_7b_tpu' or 'llama2_70b_tpu' "
        "or 'llama2_13b'? Verbs: train, eval, generate, chat, serve, batch, show, diff, html, plan, tune, list.",
    ),
    "unknown experiment": (
        ["train", "llama_30m"],
        "There is no experiment 'llama_30m'. Did you mean 'llama_30m_local' or 'llama2_13b' "
        "or 'llama3_2_3b'? `trellax list` names them all.",
    ),
    "unknown experiment to evaluate": (
        ["eval", "gpt4"],
        "There is no experiment 'gpt4'. `trellax list` names them all.",
    ),
    "unknown recipe elsewhere": (
        ["show", "nowhere.recipes:mine"],
        "nowhere.recipes:mine: there is no module 'nowhere.recipes'.",
    ),
    "no experiment": (
        ["train"],
        "`train` needs an experiment: llama2_13b, llama2_70b_tpu, llama2_7b_tpu, llama3_1_405b, ",
    ),
    "too many names": (
        ["train", NAME, "llama3_8b"],
        "`train` does not take 'llama3_8b'; overrides look like path=value.",
    ),
    "a name for a target that has one": (
        ["train", NAME, "--experiment=llama3_8b"],
        "`train` does not take 'llama2_7b_tpu'; overrides look like path=value.",
    ),
    "unknown flag": (
        ["train", NAME, "--step_count=3"],
        "There is no flag --step_count.",
    ),
    "misspelt flag": (
        ["train", NAME, "--sed=3"],
        "There is no flag --sed. Did you mean 'seed'?",
    ),
    "value of a flag": (
        ["train", NAME, "--steps=many"],
        "flag --steps=many: invalid literal for int() with base 10: 'many'",
    ),
    "value of a flag out of range": (
        ["train", NAME, "--steps=0"],
        "flag --steps=0: 0 is not a positive integer",
    ),
    "value of a flag with choices": (
        ["show", NAME, "--as=yaml"],
        "flag --as=yaml: value should be one of <text|final|python|json|specs|shardings>",
    ),
    "flag of another verb": (
        ["train", NAME, "--prompt=Anne"],
        "--prompt is for generate, not for `train`.",
    ),
    "unknown path": (
        ["train", NAME, "model.decoder.dmi=8"],
        "model.decoder.dmi=8: model.decoder (Decoder.Config) has no field 'dmi'. "
        "Did you mean 'dim'?",
    ),
    "value of a path": (
        ["train", NAME, "model.decoder.dim=wide"],
        "model.decoder.dim=wide: expected int, got 'wide'.",
    ),
    "a glob that matches nothing": (
        ["train", NAME, "model.**.num_head=8"],
        "model.**.num_head=8: nothing in the tree matches this glob. "
        "Did you mean 'num_heads' or 'num_kv_heads' or 'lm_head'?",
    ),
    "values that do not go together": (
        ["train", NAME, "model.**.num_kv_heads=3"],
        "model.decoder.stack.layer.attention: num_heads=4 is no multiple of num_kv_heads=3; "
        "each kv head serves the same number of query heads. (in Attention.Config.check)",
    ),
    "a vocabulary that is too small": (
        ["train", NAME, *TINY, "model.decoder.vocab_size=100"],
        "The input's tokenizer has 258 tokens, more than the model's vocabulary of 100; "
        "make the model's vocab_size at least as large.",
    ),
    "a mesh that does not fit": (
        ["train", NAME, *TINY, "mesh_shape.fsdp=4"],
        "Mesh (fsdp=4) does not fit 1 devices; make one size -1.",
    ),
    "text that is not there": (
        ["train", NAME, "--text=no_such_file.txt"],
        "{here}/no_such_file.txt: no such file or folder (looked from {here}).",
    ),
    "hardware that is not there": (
        ["show", NAME, "--hardware=tpu-v5q-256"],
        "Unknown chip 'tpu-v5q'. Did you mean 'tpu-v5p' or 'tpu-v5e' or 'tpu-v4'? ",
    ),
    "hardware without a rule": (
        ["show", f"{recipes_of_others.__name__}:tpu_llama", "--hardware=gpu-h100-8"],
        "No mesh rule matches hardware 'gpu-h100-8'; add one to the experiment's mesh_rules ",
    ),
    "shardings on no hardware": (
        ["show", NAME, "--as=shardings"],
        "--as=shardings needs one --hardware, e.g. --hardware=tpu-v5p-512.",
    ),
    "a path to explain": (
        ["show", NAME, "--explain=learner.optimiser"],
        "learner.optimiser: Learner.Config has no field 'optimiser'. Did you mean 'optimizer'? ",
    ),
    "one experiment to compare": (
        ["diff", NAME],
        "`diff` needs a second experiment, --hardware or path=value.",
    ),
    "overrides of a list": (["list", "seed=3"], "`list` takes no overrides, but got 'seed=3'."),
    "a page in no folder": (
        ["html", NAME, "--output=no/page.html"],
        "no/page.html cannot be written: No such file or directory.",
    ),
    "a folder without a run": (
        ["eval", NAME],
        "runs/llama2_7b_tpu holds no run (there is no config.json in it).",
    ),
}


@pytest.mark.parametrize(("argv", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_clear_line_and_writes_nothing(
    argv: list[str], message: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = called(capsys, *argv)
    assert code == 2
    expected = f"trellax: {message.format(here=tmp_path)}"
    assert err.startswith(expected)
    assert message.endswith(" ") or err == f"{expected}\n"
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_several_bad_overrides_are_told_at_once(capsys: Any) -> None:
    code, _, err = called(capsys, "show", NAME, "seed=x", "sed=1", "max_steps=5")
    assert code == 2
    assert err.splitlines() == [
        "trellax: 2 overrides are wrong, and none was applied:",
        "  seed=x: expected int, got 'x'.",
        "  sed=1: Trainer.Config has no field 'sed'. Did you mean 'seed'?",
    ]


def test_train_is_the_verb_that_can_be_left_out() -> None:
    assert parse([NAME, "seed=3"]).verb == "train"
    bound = parse(["--steps=3", "seed=3", f"--experiment={NAME}"])
    assert (bound.verb, bound.name, bound.overrides) == ("train", NAME, ("seed=3",))
    assert parse(["show", f"--experiment={NAME}"]).verb == "show"


def test_flags_and_words_come_in_any_order() -> None:
    arguments = parse(["--steps=3", "train", "seed=3", NAME, "--text=a.txt,b.txt", "--dir", "run"])
    assert (arguments.verb, arguments.name, arguments.overrides) == ("train", NAME, ("seed=3",))
    values = arguments.flags
    assert (values.steps, values.text, values.dir) == (3, ["a.txt", "b.txt"], "run")


def test_help_names_every_verb_and_exits_with_0(capsys: Any) -> None:
    code, out, _ = called(capsys, "--help")
    assert code == 0 and out == usage() + "\n"
    assert all(f"  {verb} " in out for verb in VERBS)
    with pytest.raises(UsageError):
        parse(["halp"])
