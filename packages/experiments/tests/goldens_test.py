"""Golden files: a change of an experiment's config or parameters shows in the review.

If a change is meant: ./pants run packages/experiments/tests/refresh_goldens.py
"""

from __future__ import annotations

import difflib

import pytest

from tests.refresh_goldens import FOLDER, expected_files
from trellax.experiments import experiment_names

REFRESH = "./pants run packages/experiments/tests/refresh_goldens.py"
EXPECTED = expected_files()


def difference(name: str, golden: str, now: str) -> str:
    lines = difflib.unified_diff(
        golden.splitlines(), now.splitlines(), f"goldens/{name}", "now", lineterm="", n=1
    )
    return "\n".join([*lines, f"If this is meant: {REFRESH}"])


@pytest.mark.parametrize("name", EXPECTED)
def test_an_experiment_is_what_its_golden_files_say(name: str) -> None:
    golden = (FOLDER / name).read_text() if (FOLDER / name).exists() else ""
    if golden != EXPECTED[name]:
        pytest.fail(difference(name, golden, EXPECTED[name]), pytrace=False)


def test_each_experiment_has_its_files_and_no_file_lacks_an_experiment() -> None:
    suffixes = ("config.txt", "parameters.txt", "shardings.txt")
    wanted = {f"{name}.{suffix}" for name in experiment_names() for suffix in suffixes}
    assert {file.name for file in FOLDER.glob("*")} == wanted == set(EXPECTED)


def test_a_failure_shows_the_line_and_the_command() -> None:
    now = EXPECTED["llama2_7b_tpu.config.txt"]
    golden = now.replace("optimizer.beta2: 0.95", "optimizer.beta2: 0.99")
    lines = difference("llama2_7b_tpu.config.txt", golden, now).splitlines()
    assert "-learner.optimizer.beta2: 0.99" in lines
    assert "+learner.optimizer.beta2: 0.95" in lines
    assert lines[-1] == f"If this is meant: {REFRESH}"


def test_golden_text_does_not_depend_on_the_process() -> None:
    """No addresses, no absolute paths: the files are equal on each machine."""
    for text in EXPECTED.values():
        assert " at 0x" not in text and "/home" not in text and str(FOLDER) not in text
