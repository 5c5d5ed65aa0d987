"""`list`, `show`, `diff` and `html`: looking at experiments without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import recipes_of_others
from tests.programs import modules_after
from tests.tiny import NAME, called
from trellax.config import finalize, from_json, show, to_text
from trellax.experiments import experiment_names, get_experiment
from trellax.experiments.goldens import parameter_text


def out_of(capsys: Any, *argv: str) -> str:
    code, out, err = called(capsys, *argv)
    assert (code, err) == (0, "")
    return out


def test_list_gives_each_experiment_a_line(capsys: Any) -> None:
    lines = out_of(capsys, "list").splitlines()
    assert [line.split()[0] for line in lines] == experiment_names()
    assert "Llama 2 70B" in lines[1]


def test_show_prints_the_tree_and_marks_what_differs_from_defaults(capsys: Any) -> None:
    out = out_of(capsys, "show", NAME)
    assert out.startswith("Trainer\n  name: 'llama2_7b_tpu'  *\n")
    assert "    num_layers: 32  *\n" in out and out.rstrip() == show(get_experiment(NAME)).rstrip()


def test_show_applies_overrides_and_the_rule_of_hardware(capsys: Any) -> None:
    assert "    num_layers: 7  *\n" in out_of(capsys, "show", NAME, "**.num_layers=7")
    rehearsal = out_of(capsys, "show", NAME, "--hardware=cpu", "seed=9")
    assert "    dim: 128  *\n" in rehearsal and "  seed: 9  *\n" in rehearsal
    lite = out_of(capsys, "show", NAME, "--hardware=tpu-v5litepod-256")
    assert "    fsdp: 256  *\n" in lite and "    dim: 4096  *\n" in lite


def test_show_as_json_and_python_gives_the_tree_back(capsys: Any) -> None:
    cfg = get_experiment(NAME)
    as_json = out_of(capsys, "show", NAME, "--as=json")
    assert json.loads(as_json) and from_json(as_json) == cfg
    namespace: dict[str, Any] = {}
    exec(out_of(capsys, "show", NAME, "--as=python"), namespace)
    assert namespace["config"]() == cfg


def test_show_as_final_tells_what_parents_provide(capsys: Any) -> None:
    as_final = out_of(capsys, "show", NAME, "--as=final", "--hardware=cpu")
    assert "          head_dim: 32  *\n" in as_final and "REQUIRED" not in as_final
    code, _, err = called(capsys, "show", NAME, "--as=final")
    assert code == 2  # The paths of the corpus are the user's to say.
    assert err.splitlines() == [
        "trellax: 3 required fields are not set:",
        "  input.dataset.documents.paths: list[str]",
        "  input.tokenizer.file: str",
        "  input.tokenizer.eos_token: str",
    ]


def test_show_as_specs_lists_parameters_and_their_number(capsys: Any) -> None:
    out = out_of(capsys, "show", NAME, "--as=specs")
    assert out == parameter_text(get_experiment(NAME).model)
    assert out.endswith("total: 6,738,415,616\n")


def test_show_as_shardings_lists_where_arrays_lie_on_hardware_and_with_overrides(
    capsys: Any,
) -> None:
    command = ("show", NAME, "--as=shardings", "--hardware=tpu-v5p-512")
    out = out_of(capsys, *command, "mesh_shape.data=1", "mesh_shape.fsdp=-1")
    assert out.startswith("mesh: fsdp=256\nparameters\n  decoder.embedding.weight: ")
    assert "up.weight: float32[32, 4096, 11008] (-, fsdp, -) 22,544,384 B" in out
    # 1024 rows on 256 devices: as many tokens of 4096 numbers in bfloat16.
    assert "  decoder.block_input: bfloat16[1024, 4096, 4096] (fsdp, -, -) 134,217,728 B" in out


def test_explain_says_where_a_value_was_set(capsys: Any) -> None:
    path = "model.decoder.stack.num_layers"
    of_recipe = out_of(capsys, "show", NAME, f"--explain={path}")
    assert f"{path} = 32" in of_recipe and "pre_norm.py:" in of_recipe
    of_rule = out_of(capsys, "show", NAME, "--hardware=cpu", f"--explain={path}")
    assert f"{path} = 4" in of_rule and "by RehearsalModifier" in of_rule
    of_user = out_of(capsys, "show", NAME, f"{path}=3", f"--explain={path}")
    assert f"override on the command line, {path}=3" in of_user


def test_diff_of_overrides_is_what_they_change(capsys: Any) -> None:
    out = out_of(capsys, "diff", NAME, "model.decoder.dim=64", "seed=1")
    assert out == "~ model.decoder.dim   4096 -> 64\n~ seed                0 -> 1\n"


def test_diff_of_two_experiments_and_of_hardware(capsys: Any) -> None:
    out = out_of(capsys, "diff", NAME, "llama2_70b_tpu")
    assert out.startswith("~ name") and "num_kv_heads" in out and "theta" not in out
    on_cpu = out_of(capsys, "diff", NAME, "--hardware=cpu")
    assert "32000 -> 2048" in on_cpu and "ParquetDocuments -> PackageText" in on_cpu
    assert out_of(capsys, "diff", NAME, NAME) == "No differences.\n"


def test_html_is_one_page_that_needs_nothing_else(
    capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert out_of(capsys, "html", NAME) == "llama2_7b_tpu.html\n"
    page = (tmp_path / "llama2_7b_tpu.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "num_layers" in page and "<title>llama2_7b_tpu" in page
    for outside in ('src="http', 'href="http', "@import", "url(http"):
        assert outside not in page


def test_html_of_two_shows_both(capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "both.html"
    assert out_of(capsys, "html", NAME, "llama3_8b", f"--output={file}") == f"{file}\n"
    assert all(text in file.read_text() for text in ("llama3_8b", NAME, "128256", "32000"))


@pytest.mark.parametrize("verb", ["list", "show", "diff"])
def test_looking_loads_neither_data_libraries_nor_checkpoints(verb: str) -> None:
    names = {"list": [], "show": [NAME], "diff": [NAME, "llama3_8b"]}[verb]
    loaded = modules_after(f"from trellax.experiments.cli import run; run({[verb, *names]!r})")
    assert not {"grain", "tokenizers", "pyarrow", "orbax.checkpoint"} & loaded


def test_an_experiment_of_somebody_else_is_shown_by_module_and_function(capsys: Any) -> None:
    out = out_of(capsys, "show", f"{recipes_of_others.__name__}:own_llama")
    assert "feed_forward: OwnFeedForward  *\n" in out
    assert to_text(finalize(get_experiment("llama_30m_local")))  # Whole without a user's word.
