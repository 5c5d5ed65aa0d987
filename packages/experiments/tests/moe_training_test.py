"""A Llama whose feed-forward layers were swapped for a mixture of experts trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import NAME, TINY, write_text
from trellax.config import diff, finalize, format_diff, replace_config
from trellax.experiments import get_experiment
from trellax.experiments.resolve import resolve
from trellax.layers import FeedForwardLayer, MoELayer
from trellax.parallel import apply_mesh_rule, hardware_named, select_mesh_rule

LAYER = "model.decoder.stack.layer.feed_forward"
DIFF = f"""\
! {LAYER}                     FeedForwardLayer -> MoELayer
- {LAYER}.up                  Linear
- {LAYER}.gate                Linear
- {LAYER}.down                Linear
+ {LAYER}.num_experts         4
+ {LAYER}.experts_per_token   2
+ {LAYER}.router              TopKRouter
+ {LAYER}.dispatch            DroplessDispatch
+ {LAYER}.experts             GroupedExperts
+ {LAYER}.shared_expert       None"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TRELLAX_CACHE_DIR", str(tmp_path / "cache"))


def experts(state: Any) -> dict[str, np.ndarray]:
    params = state["params"]["decoder"]["stack"]["layer"]["feed_forward"]["experts"]
    return {name: np.asarray(array) for name, array in params.items()}


def test_one_call_swaps_the_layer_and_training_goes_on(tmp_path: Path) -> None:
    changes = [*TINY, "checkpointer.save_every_steps=1"]
    cpu, text = hardware_named("cpu"), [write_text(tmp_path)]
    dense = resolve(NAME, hardware=cpu, overrides=changes, text=text, steps=2).cfg
    sparse = dense.clone()
    new_cfg = MoELayer.default_config().set(num_experts=4)
    assert replace_config(sparse, target=FeedForwardLayer, new_cfg=new_cfg) == [LAYER]
    assert format_diff(diff(dense, sparse)) == DIFF

    trainer = finalize(sparse).instantiate(directory=str(tmp_path / "run"))
    outcome = trainer.run()
    assert outcome.step == 2
    assert outcome.metrics["loss"] == pytest.approx(math.log(258), rel=0.05)
    assert 0.01 < outcome.metrics["auxiliary_loss"] < 0.03, "0.01 is an even load, the z-loss adds"
    before, after = experts(trainer.restore(1)[1]), experts(outcome.state)
    assert {name: array.shape for name, array in after.items()} == {
        "up": (1, 4, 16, 32),
        "gate": (1, 4, 16, 32),
        "down": (1, 4, 32, 16),
    }
    for name, array in after.items():  # The step changed every expert.
        assert (array != before[name]).any(axis=(0, 2, 3)).all()


def test_a_swapped_experiment_rehearses_too() -> None:
    """The rule for `cpu` shrinks what a researcher put there, though it never heard of it."""
    cfg = get_experiment("llama2_70b_tpu")
    replace_config(cfg, FeedForwardLayer, MoELayer.default_config().set(num_experts=8))
    ruled, _ = apply_mesh_rule(cfg, select_mesh_rule(cfg.mesh_rules, "cpu"))
    layer = finalize(ruled).model.decoder.stack.layer
    assert isinstance(layer.feed_forward, MoELayer.Config)
    assert (layer.input_dim, layer.feed_forward.hidden_dim) == (128, 448)
    assert layer.feed_forward.experts.hidden_dim == 448
    assert (layer.attention.num_heads, layer.attention.num_kv_heads) == (4, 1)
