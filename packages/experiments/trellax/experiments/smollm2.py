"""SmolLM2 as an experiment, with the published hyperparameters: arXiv:2502.02737 and its configs for pretraining.

trellax train smollm2_135m

The paper has the data, the number of tokens (2 T for 135M) and the form of the schedule (warm-up, stable, a linear
decay over the last fifth); the released configs have shapes, learning rate and AdamW. Theirs are batches of 1 M tokens, ours of 2 M, so that 1,024 devices have a row each. Released
weights were then trained on longer rows with a rotary base of 100,000, up from 10,000; that base is in this recipe,
so that they fit it. Rows have the 2,048 tokens of pretraining; see input.sequence_length.
"""

from __future__ import annotations

from trellax.experiments.decoders import adamw_learner, pretraining
from trellax.experiments.mesh_plans import SMALL, Batch, mesh_rules
from trellax.layers import decoder_model, swiglu
from trellax.layers.attention import RotaryPositions
from trellax.runtime import Learner, Trainer, WarmupStableDecaySchedule

_BATCH = Batch(rows=1024, length=2048)
_STEPS = 1_000_000


def smollm2_135m() -> Trainer.Config:
    """SmolLM2 135M (tied embeddings, 49 k vocabulary) on 2 T tokens in batches of 2 M."""
    model = decoder_model(
        num_layers=30,
        dim=576,
        num_heads=9,
        num_kv_heads=3,
        vocab_size=49_152,
        feed_forward=swiglu(1536),
        positions=RotaryPositions.default_config().set(theta=100_000.0),
        tied=True,
    )
    return pretraining(
        "smollm2_135m",
        model,
        _learner(),
        sequence_length=_BATCH.length,
        sequences=_BATCH.rows,
        max_steps=_STEPS,
        mesh_rules=mesh_rules(SMALL, _BATCH),
    )


def _learner() -> Learner.Config:
    learner = adamw_learner(peak=3e-3)
    learner.optimizer.set(epsilon=1e-8, weight_decay=0.01)
    learner.schedule = WarmupStableDecaySchedule.default_config().set(
        peak=3e-3, warmup_steps=2000, decay_steps=_STEPS // 5, final_fraction=0.0
    )
    return learner
