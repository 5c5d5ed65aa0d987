"""`--draft_weights`: a smaller model's drafts make a served one faster, and change nothing of what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from tests.serving import tiny_served
from tests.tiny import called
from trellax.config import finalize
from trellax.experiments.cli.arguments import UsageError, parse
from trellax.experiments.cli.served import opened
from trellax.experiments.drafting import draft_speculation
from trellax.experiments.serving import served_weights, start_core
from trellax.inference.requests import Request, SamplingParams
from trellax.runtime import Trainer
from trellax.runtime.weights import WeightsMismatchError, write_weights

NAME = f"{tiny_served.__name__}:tiny"
SMALLER = f"{__name__}:smaller"
ENGINE = (
    "engine.max_sequences=1",
    "engine.max_tokens_per_step=16",
    "engine.tile_length=16",
    "engine.weights=plain",
    "engine.warms_up=false",
)


def smaller() -> Trainer.Config:
    """The model of `tiny_served` with one layer."""
    cfg = tiny_served.tiny()
    cfg.model.decoder.stack.set(num_layers=1)
    return cfg


def larger_vocabulary() -> Trainer.Config:
    cfg = tiny_served.tiny()
    cfg.model.decoder.set(vocab_size=300)
    return cfg


def write_folder(folder: Path, cfg: Any, tokenizer: Any) -> None:
    params = finalize(cfg.model.clone()).instantiate().init(jax.random.key(1))
    write_weights(folder, params, model_config=cfg.model, max_length=512, tokenizer=tokenizer)


@pytest.fixture(scope="module", name="folders")
def written(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("weights")
    tiny_served.write_folder(folder / "tiny")
    tokenizer = served_weights(NAME, str(folder / "tiny")).tokenizer
    write_folder(folder / "smaller", smaller(), tokenizer)
    write_folder(folder / "larger", larger_vocabulary(), tokenizer)
    names = {path.name: str(path) for path in folder.iterdir()}
    return SimpleNamespace(**names)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation() -> Iterator[None]:
    """What these tests cost is compilation, not arithmetic."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def answered(*flags: str) -> tuple[list[int], Any]:
    """Returns the tokens after a prompt, and what the engine has counted."""
    served, cfg = opened(parse(["serve", NAME, *flags, *ENGINE]))
    core = start_core(cfg, served)
    ids = tuple(served.tokenizer.encode("She was glad of it").tolist())
    core.add(Request("r", ids, SamplingParams(max_tokens=16, temperature=0.0)))
    pieces = []
    while core.has_work:
        pieces += core.step()
    return [token for piece in pieces for token in piece.token_ids], core.stats


def test_a_draft_model_says_how_to_go_on_and_changes_no_token(folders: Any) -> None:
    weights = f"--weights={folders.tiny}"
    expected, _ = answered(weights)
    drafts = (f"--draft_weights={folders.smaller}", f"--draft_experiment={SMALLER}")
    found, stats = answered(weights, *drafts, "engine.speculation.num_tokens=2")
    assert found == expected
    assert stats.num_drafts > stats.num_drafted_rows > 0


def test_a_draft_model_without_a_name_is_of_the_same_experiment(folders: Any) -> None:
    _, stats = answered(f"--weights={folders.tiny}", f"--draft_weights={folders.tiny}")
    assert stats.num_accepted_drafts == stats.num_drafts > 0


def test_a_draft_model_of_another_vocabulary_is_refused(folders: Any, capsys: Any) -> None:
    code, _, err = called(
        *(capsys, "serve", NAME, f"--weights={folders.tiny}", f"--draft_weights={folders.larger}"),
        f"--draft_experiment={__name__}:larger_vocabulary",
    )
    assert code == 2
    assert "has a vocabulary of 300 tokens" in err and "one of 258" in err


def test_a_draft_model_whose_tokens_mean_something_else_is_refused(folders: Any) -> None:
    served = served_weights(NAME, folders.tiny)
    shifted = SimpleNamespace(
        token_bytes=lambda token_id: served.tokenizer.token_bytes(token_id + 1)
    )
    with pytest.raises(WeightsMismatchError, match="Token 0 is"):
        draft_speculation(
            dataclasses.replace(served, tokenizer=shifted), folders.tiny, experiment=NAME
        )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--draft_experiment=llama3_2_1b"], "name them, too"),
        (["--draft_weights=w", "--role=prefill", "--weights=w"], "is for fused and decode"),
    ],
)
def test_flags_that_do_not_go_together_are_told(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(["serve", NAME, *flags])
