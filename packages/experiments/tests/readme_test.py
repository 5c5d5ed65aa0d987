"""The examples of README.md run, in order, and print what it says; its lists are complete."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from trellax.config import select
from trellax.experiments import experiment_names
from trellax.experiments.cli.arguments import VERBS, usage

README = Path(__file__).parent.parent / "README.md"
ROOT_README = Path(__file__).parents[3] / "README.md"
PARALLELISM = ROOT_README.parent / "docs" / "parallelism.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\nprints\n\n((?: {4}[^\n]*\n)*))?", re.M | re.S)


def executed() -> dict[str, Any]:
    """Runs the examples one after the other and returns what they define."""
    namespace: dict[str, Any] = {}
    for code, said in BLOCK.findall(README.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(README), "exec"), namespace)
        assert printed.getvalue().split() == said.split()
    return namespace


def test_the_examples_run_and_print_what_the_readme_says() -> None:
    defined = executed()
    assert len(BLOCK.findall(README.read_text())) == 3
    # The user's own replace_config did what ours does, on a whole experiment.
    assert defined["again"] == defined["sparse"] and defined["again"] is not defined["sparse"]
    assert len(select(defined["again"], defined["MoELayer"])) == 1


def test_the_example_of_the_repository_replaces_the_feed_forward_layers() -> None:
    namespace: dict[str, Any] = {}
    code, _ = BLOCK.findall(ROOT_README.read_text())[0]
    exec(compile(code, str(ROOT_README), "exec"), namespace)
    assert not select(namespace["cfg"], namespace["FeedForwardLayer"])
    assert len(select(namespace["cfg"], namespace["MoELayer"])) == 1


def test_the_example_of_the_page_on_parallelism_runs() -> None:
    (code, _), *others = BLOCK.findall(PARALLELISM.read_text())
    assert not others
    exec(compile(code, str(PARALLELISM), "exec"), {})


def test_every_experiment_verb_and_flag_is_listed() -> None:
    text = README.read_text()
    assert all(f"`{name}`" in text for name in experiment_names())
    assert all(f"| `{verb}` |" in text for verb in VERBS)
    flags = re.findall(r"^  --(\w+)", usage(), re.M)
    assert len(flags) == 36 and all(f"--{flag}" in text for flag in flags)
