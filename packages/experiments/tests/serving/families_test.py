"""Every registered model is served as it was trained: log-probabilities of the engine are those of the training forward pass.

In one layout and one way of making steps; `benchmarks/same_numbers.py` crosses all of them.
"""

from __future__ import annotations

import pytest
from benchmarks import same_numbers

MODELS = same_numbers.distinct_models()


@pytest.mark.parametrize("name", MODELS)
def test_train_vs_serve_logprob(name: str) -> None:
    params = same_numbers.initial_params(MODELS[name], "float32")
    cell = same_numbers.measured(MODELS[name], params, "float32", "paged", "mixed batches")
    assert cell["compared"] == len(same_numbers.PROMPTS) * same_numbers.MAX_TOKENS
    assert cell["largest"] < same_numbers.TOLERANCES["float32"]


def test_the_table_is_of_every_cell_and_tells_what_is_off(capsys: pytest.CaptureFixture) -> None:
    name, *_ = MODELS
    found = same_numbers.table([name], ["float32"], layouts=["ring"], ways=["disaggregated"])
    assert found.failed == 0 and found.cells[name]["float32"]["ring"]["disaggregated"]["compared"]
    strict = same_numbers.table(
        [name], ["float32"], layouts=["ring"], ways=["mixed batches"], tolerances={"float32": 0.0}
    )
    assert strict.failed == 1
    assert "ring mixed batches: off by" in capsys.readouterr().out
