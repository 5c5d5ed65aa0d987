"""The promise of the design: one call swaps a part of any experiment, and no other line changes.

A thousand experiments get a mixture of experts and another position encoding. Each still builds and
has as many parameters as arithmetic says, and its config differs in the swapped nodes alone.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.variants import POSITIONS, Variant, variants
from trellax.config import diff, finalize, path_is_within, replace_config, select
from trellax.experiments import experiment_names, get_experiment
from trellax.layers import (
    FeedForwardLayer,
    LearnedPositionEmbedding,
    MoELayer,
    SinusoidalPositionEmbedding,
    count_parameters,
)
from trellax.layers.attention import AlibiPositions, Positions, RotaryPositions

COUNT, SECONDS, E = 1000, 60, 4


def moe() -> Any:
    return MoELayer.default_config().set(num_experts=E)


def num_built(model_cfg: Any) -> int:
    """Returns the number of parameters of the module tree."""
    return count_parameters(finalize(model_cfg).instantiate().all_parameter_specs())


def is_dense(name: str) -> bool:
    """Whether an experiment has feed-forward layers, which experts can take the place of."""
    return bool(select(get_experiment(name), FeedForwardLayer))


def swap(cfg: Any, variant: Variant) -> list[str]:
    """Replaces every feed-forward layer and every position encoding; returns where."""
    rotary = variant.position in ("rotary", "partly rotary")
    other: Any = (AlibiPositions if rotary else RotaryPositions).default_config()
    paths = replace_config(cfg, FeedForwardLayer, moe()) + replace_config(cfg, Positions, other)
    if variant.family == "gpt2":
        fixed = SinusoidalPositionEmbedding.default_config()
        paths += replace_config(cfg, LearnedPositionEmbedding, fixed)
    return paths


def check(variant: Variant) -> None:
    before = variant.trainer_cfg()
    after = before.clone()
    paths = swap(after, variant)
    assert len(select(after, MoELayer)) == variant.num_feed_forwards
    assert not select(after, FeedForwardLayer)
    changes = diff(before, after)
    assert set(paths) <= {change.path for change in changes if change.kind == "retyped"}
    assert all(any(path_is_within(c.path, path) for path in paths) for c in changes)
    expected = variant.num_parameters(num_experts=E, learned_positions=False)
    assert num_built(after.model) == expected, variant


def test_a_thousand_experiments_take_both_swaps_within_a_minute() -> None:
    start = time.process_time()
    for variant in variants(COUNT):
        check(variant)
    assert time.process_time() - start < SECONDS


def test_the_thousand_are_different_and_cover_every_choice() -> None:
    chosen = variants(COUNT)
    assert len(set(chosen)) == COUNT
    for axis, number in {"family": 5, "size": 3, "position": 5, "norm": 3, "place": 4}.items():
        assert len({getattr(v, axis) for v in chosen}) == number
    assert {v.attention for v in chosen} == {"mha", "gqa", "mqa"}
    assert len({v.stack for v in chosen}) == 4


def test_the_arithmetic_also_counts_the_variants_before_the_swap() -> None:
    for variant in variants(50):
        assert num_built(variant.trainer_cfg().model) == variant.num_parameters(), variant


def test_what_the_two_layers_share_is_carried_over() -> None:
    (variant,) = [v for v in variants(COUNT) if v.family == "gpt2"][:1]
    cfg = variant.trainer_cfg()
    replace_config(cfg, FeedForwardLayer, moe())
    for _, node in select(cfg, MoELayer):
        assert (node.hidden_dim, node.activation, node.gated) == (variant.size[2], "gelu", False)


@pytest.mark.parametrize("name", experiment_names())
@pytest.mark.parametrize("position", POSITIONS)
def test_registered_experiments_take_any_positions_at_full_size(name: str, position: str) -> None:
    cfg = get_experiment(name)
    before = num_built(cfg.model)
    assert replace_config(cfg, Positions, POSITIONS[position]) == [
        "model.decoder.stack.layer.attention.positions"
    ]
    assert num_built(cfg.model) == before


@pytest.mark.parametrize("name", [n for n in experiment_names() if is_dense(n)])
def test_dense_experiments_take_a_mixture_of_experts_at_full_size(name: str) -> None:
    cfg = get_experiment(name)
    dense = num_built(cfg.model)
    stack = finalize(cfg.model).decoder.stack
    layer = stack.layer
    assert replace_config(cfg, FeedForwardLayer, moe()) == [
        "model.decoder.stack.layer.feed_forward"
    ]
    expert = 3 * layer.input_dim * layer.feed_forward.hidden_dim
    added = stack.num_layers * ((E - 1) * expert + layer.input_dim * E)
    assert num_built(cfg.model) == dense + added
