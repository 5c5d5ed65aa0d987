"""Mixtral as an experiment, with the published architecture: arXiv:2401.04088, section 2 and table 1.

trellax train mixtral_8x7b

The rotary base and the weight of the load-balance loss are those of the released config. How it was trained is not
published: learning rate, batch (8 M tokens) and length of training (2 T tokens) are ours. The model reads 32 k tokens;
rows of training have 8,192 here, see input.sequence_length.
"""

from __future__ import annotations

from trellax.experiments.decoders import adamw_learner, pretraining
from trellax.experiments.mesh_plans import COARSE_EXPERTS, Batch, mesh_rules
from trellax.layers import MoELayer, TopKRouter, decoder_model
from trellax.layers.attention import RotaryPositions
from trellax.runtime import Trainer

_BATCH = Batch(rows=1024, length=8192)


def mixtral_8x7b() -> Trainer.Config:
    """Mixtral 8x7B (8 experts, 2 a token: 12.9 B of 46.7 B parameters active) on 2 T tokens."""
    router = TopKRouter.default_config().set(load_balance_weight=0.02, z_loss_weight=0.0)
    experts = MoELayer.default_config().set(
        hidden_dim=14_336, num_experts=8, experts_per_token=2, router=router
    )
    model = decoder_model(
        num_layers=32,
        dim=4096,
        num_heads=32,
        num_kv_heads=8,
        vocab_size=32_000,
        feed_forward=experts,
        positions=RotaryPositions.default_config().set(theta=1e6),
    )
    return pretraining(
        "mixtral_8x7b",
        model,
        adamw_learner(peak=3e-4),
        sequence_length=_BATCH.length,
        sequences=_BATCH.rows,
        max_steps=240_000,
        mesh_rules=mesh_rules(COARSE_EXPERTS, _BATCH),
    )
