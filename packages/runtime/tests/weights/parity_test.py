"""Models of each family compute what transformers computes from the same files (goldens/make_goldens.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights.compare import LARGEST_RELATIVE_ERROR, error_of
from trellax.layers import ScannedStack, UnrolledStack
from trellax.layers.weight_names import FAMILIES
from trellax.runtime.weights import open_pretrained, write_weights

GOLDENS = Path(__file__).parent / "goldens"
NAMES = ("llama", "llama_tied", "mixtral", "qwen3", "qwen3_moe")


def test_every_family_has_a_golden() -> None:
    assert {open_pretrained(GOLDENS / name).family for name in NAMES} == set(FAMILIES)


@pytest.mark.parametrize("stack", [ScannedStack, UnrolledStack])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str, stack: Any) -> None:
    assert error_of(GOLDENS / name, GOLDENS / name, stack) <= LARGEST_RELATIVE_ERROR


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_again_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    pretrained = open_pretrained(GOLDENS / name)
    params = pretrained.read(pretrained.model_config().instantiate(name="root"))
    assert pretrained.max_length is not None
    write_weights(
        tmp_path / "copy",
        params,
        model_config=pretrained.model_config(),
        max_length=pretrained.max_length,
    )
    assert error_of(tmp_path / "copy", GOLDENS / name) <= LARGEST_RELATIVE_ERROR


@pytest.mark.parametrize("name", NAMES)
def test_written_files_hold_the_tensors_that_transformers_wrote(name: str, tmp_path: Path) -> None:
    pretrained = open_pretrained(GOLDENS / name)
    params = pretrained.read(pretrained.model_config().instantiate(name="root"))
    cfg = pretrained.model_config()
    write_weights(tmp_path / "copy", params, model_config=cfg, max_length=64)
    copy = open_pretrained(tmp_path / "copy")
    assert copy.architecture == pretrained.architecture
    assert copy.source.tensors.keys() == pretrained.source.tensors.keys()
    for tensor in copy.source.tensors:
        with copy.source.tensor(tensor) as ours, pretrained.source.tensor(tensor) as theirs:
            np.testing.assert_array_equal(ours, theirs)
