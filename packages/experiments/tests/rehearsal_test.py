"""A rehearsal is the same tree, smaller, on the text that ships along."""

from __future__ import annotations

from typing import Any

import pytest

from trellax.config import ChainModifier, component_of, finalize, nodes
from trellax.experiments import get_experiment
from trellax.experiments.corpus import HELD_OUT_NOVELS, TRAINING_NOVELS
from trellax.experiments.rehearsal import RehearsalModifier
from trellax.experiments.resolve import resolve
from trellax.layers import count_parameters
from trellax.parallel import hardware_named

DENSE = ("llama2_7b_tpu", "llama2_70b_tpu", "llama3_8b", "llama3_1_405b", "qwen3_0_6b")
SPARSE = {"mixtral_8x7b": (8, 2), "qwen3_30b_a3b": (16, 8)}  # Experts, and those of a token.
NAMES = (*DENSE, *SPARSE)


def rehearsed(name: str, **more: Any) -> Any:
    return resolve(name, hardware=hardware_named("cpu"), **more)


def layers(cfg: Any) -> list[tuple[str, Any]]:
    """Returns the path and class of each layer; how it is rematerialized is the machine's affair."""
    found = [(path, component_of(node)) for path, node in nodes(cfg)]
    return [(path, kind) for path, kind in found if not path.endswith(".remat")]


@pytest.mark.parametrize("name", NAMES)
def test_the_model_keeps_its_structure(name: str) -> None:
    full, small = get_experiment(name).model, rehearsed(name).cfg.model
    assert layers(small) == layers(full)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_enough_for_a_laptop(name: str) -> None:
    final = finalize(rehearsed(name).cfg)
    most = 8e6 if name in SPARSE else 2e6
    assert count_parameters(final.model.instantiate().all_parameter_specs()) < most
    assert final.input.global_batch_size * final.input.sequence_length <= 2048
    assert final.compute_dtype == "float32" and final.max_steps <= 1000
    assert final.learner.schedule.warmup_steps < final.max_steps / 10
    assert final.learner.optimizer == finalize(get_experiment(name).learner.optimizer)


def test_kv_heads_keep_their_share_of_the_heads() -> None:
    attention = {n: rehearsed(n).cfg.model.decoder.stack.layer.attention for n in DENSE}
    assert attention["llama2_7b_tpu"].num_kv_heads is None
    assert (attention["llama3_8b"].num_heads, attention["llama3_8b"].num_kv_heads) == (4, 1)


@pytest.mark.parametrize("name", SPARSE)
def test_a_token_goes_to_as_many_experts_as_before_of_fewer(name: str) -> None:
    full, small = get_experiment(name).model, rehearsed(name).cfg.model
    experts = finalize(small).decoder.stack.layer.feed_forward
    assert (experts.num_experts, experts.experts_per_token) == SPARSE[name]
    assert experts.experts_per_token == full.decoder.stack.layer.feed_forward.experts_per_token


def test_there_are_never_fewer_experts_than_a_token_goes_to() -> None:
    cfg = get_experiment("qwen3_30b_a3b")
    modifier = RehearsalModifier.default_config().set(max_experts=4)
    small = ChainModifier.default_config().set(modifiers=[modifier]).instantiate()(cfg)
    assert finalize(small.model).decoder.stack.layer.feed_forward.num_experts == 8


def test_norms_of_heads_shrink_with_the_heads() -> None:
    attention = finalize(rehearsed("qwen3_0_6b").cfg.model).decoder.stack.layer.attention
    assert (attention.head_dim, attention.query_norm.input_dim) == (32, 32)


def test_the_held_out_novel_is_never_trained_on() -> None:
    cfg = rehearsed("llama2_7b_tpu").cfg
    held_out = cfg.evaluators["eval"].input
    assert cfg.input.dataset.documents.resources == list(TRAINING_NOVELS)
    assert held_out.dataset.documents.resources == list(HELD_OUT_NOVELS)
    assert held_out.tokenizer == cfg.input.tokenizer, "one tokenizer, of the training text"
    assert held_out.tokenizer.documents.resources == list(TRAINING_NOVELS)
    assert not set(TRAINING_NOVELS) & set(HELD_OUT_NOVELS)


def test_the_user_has_the_last_word() -> None:
    resolved = rehearsed("llama2_7b_tpu", overrides=["max_steps=9", "seed=5"], steps=7, seed=1)
    assert (resolved.cfg.max_steps, resolved.cfg.seed) == (9, 5)
    assert [change.path for change in resolved.user_changes] == ["max_steps", "seed"]


def test_it_says_what_the_rule_changed() -> None:
    resolved = rehearsed("llama2_7b_tpu")
    assert resolved.is_rehearsal and resolved.title == "Rehearsal"
    assert resolved.hardware_text == "cpu (1 device)" and resolved.rule_text.startswith("'cpu': ")
    changed = {change.path: (change.old, change.new) for change in resolved.rule_changes}
    assert changed["model.decoder.dim"] == (4096, 128)
    assert changed["model.decoder.stack.num_layers"] == (32, 4)
    assert not resolved.user_changes


def test_without_a_rule_that_shrinks_it_is_no_rehearsal() -> None:
    resolved = rehearsed("llama_30m_local")
    assert not resolved.is_rehearsal and resolved.title == "Training"
