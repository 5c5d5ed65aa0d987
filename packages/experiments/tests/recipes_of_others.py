"""A recipe that no registry knows, as another package would have it."""

from __future__ import annotations

from trellax.experiments import get_experiment
from trellax.layers import FeedForwardLayer
from trellax.runtime import Trainer

NOT_A_RECIPE = 3


class OwnFeedForward(FeedForwardLayer):
    """A component that is not of Trellax."""


def own_llama() -> Trainer.Config:
    """A Llama of somebody else."""
    cfg = get_experiment("llama2_7b_tpu").set(name="own_llama")
    cfg.model.decoder.stack.layer.feed_forward = OwnFeedForward.default_config().set(hidden_dim=64)
    return cfg


def tpu_llama() -> Trainer.Config:
    """A Llama that knows no other hardware than TPUs."""
    cfg = get_experiment("llama2_7b_tpu").set(name="tpu_llama")
    return cfg.set(mesh_rules=tuple(r for r in cfg.mesh_rules if r.pattern.startswith("tpu-")))
