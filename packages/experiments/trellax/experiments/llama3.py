"""Llama 3, 3.1 and 3.2 as experiments, with the published hyperparameters.

trellax train llama3_1_8b

Sources: arXiv:2407.21783, section 3.2 and table 3 (shapes, peak learning rates, rotary base), section 3.4.1 (405B: AdamW,
8,000 steps of warm-up, cosine to a hundredth, 1,200,000 steps, batches of 16 M tokens; the schedule of the others is not
published, theirs has the same form); the released configs of Llama 3.1 and 3.2 for the scaling of rotary positions and
the 3.2 shapes. The small models of 3.2 came from pruning and distillation, on up to 9 T tokens; these recipes train their
architecture from the start, with learning rates and batches of ours. Rows have the 8,192 tokens of pretraining.
"""

from __future__ import annotations

from trellax.experiments.decoders import adamw_learner, pretraining
from trellax.experiments.mesh_plans import HUGE, LARGE, MEDIUM, SMALL, Batch, ChipPlans, mesh_rules
from trellax.layers import CausalLM, decoder_model, swiglu
from trellax.layers.attention import Llama3RopeScaling, RotaryPositions
from trellax.runtime import Learner, Trainer

_BATCH = Batch(rows=2048, length=8192)
_SMALL_BATCH = Batch(rows=1024, length=8192)


def llama3_8b() -> Trainer.Config:
    """Llama 3 8B (grouped-query attention, 128 k vocabulary, 8 k context) on 15 T tokens."""
    return _trained(
        "llama3_8b",
        _model(num_layers=32, dim=4096, num_heads=32, hidden_dim=14_336),
        adamw_learner(peak=3e-4),
        max_steps=900_000,
        plans=MEDIUM,
    )


def llama3_1_8b() -> Trainer.Config:
    """Llama 3.1 8B (positions scaled for 128 k context) on 15 T tokens in batches of 16 M."""
    return _trained(
        "llama3_1_8b",
        _model(num_layers=32, dim=4096, num_heads=32, hidden_dim=14_336, scaling=8.0),
        _learner(peak=3e-4),
        max_steps=900_000,
        plans=MEDIUM,
    )


def llama3_1_70b() -> Trainer.Config:
    """Llama 3.1 70B (positions scaled for 128 k context) on 15 T tokens in batches of 16 M."""
    return _trained(
        "llama3_1_70b",
        _model(num_layers=80, dim=8192, num_heads=64, hidden_dim=28_672, scaling=8.0),
        _learner(peak=1.5e-4),
        max_steps=900_000,
        plans=LARGE,
    )


def llama3_1_405b() -> Trainer.Config:
    """Llama 3.1 405B (126 layers, positions scaled for 128 k context), 1.2 M steps of 16 M tokens."""
    return _trained(
        "llama3_1_405b",
        _model(num_layers=126, dim=16_384, num_heads=128, hidden_dim=53_248, scaling=8.0),
        _learner(peak=8e-5),
        max_steps=1_200_000,
        plans=HUGE,
    )


def llama3_2_1b() -> Trainer.Config:
    """Llama 3.2 1B (tied embeddings) on 9 T tokens in batches of 8 M."""
    return _trained(
        "llama3_2_1b",
        _model(num_layers=16, dim=2048, num_heads=32, hidden_dim=8192, scaling=32.0, tied=True),
        _learner(peak=3e-4),
        max_steps=1_073_000,
        plans=SMALL,
        batch=_SMALL_BATCH,
    )


def llama3_2_3b() -> Trainer.Config:
    """Llama 3.2 3B (tied embeddings) on 9 T tokens in batches of 8 M."""
    return _trained(
        "llama3_2_3b",
        _model(num_layers=28, dim=3072, num_heads=24, hidden_dim=8192, scaling=32.0, tied=True),
        _learner(peak=3e-4),
        max_steps=1_073_000,
        plans=SMALL,
        batch=_SMALL_BATCH,
    )


def _model(
    *,
    num_layers: int,
    dim: int,
    num_heads: int,
    hidden_dim: int,
    scaling: float | None = None,
    tied: bool = False,
) -> CausalLM.Config:
    positions = RotaryPositions.default_config().set(theta=500_000.0)
    if scaling is not None:
        positions.scaling = Llama3RopeScaling.default_config().set(factor=scaling)
    return decoder_model(
        num_layers=num_layers,
        dim=dim,
        num_heads=num_heads,
        num_kv_heads=8,
        vocab_size=128_256,
        feed_forward=swiglu(hidden_dim),
        positions=positions,
        tied=tied,
    )


def _learner(*, peak: float) -> Learner.Config:
    return adamw_learner(peak=peak, warmup_steps=8000, final_fraction=0.01)


def _trained(
    name: str,
    model: CausalLM.Config,
    learner: Learner.Config,
    *,
    max_steps: int,
    plans: ChipPlans,
    batch: Batch = _BATCH,
) -> Trainer.Config:
    return pretraining(
        name,
        model,
        learner,
        sequence_length=batch.length,
        sequences=batch.rows,
        max_steps=max_steps,
        mesh_rules=mesh_rules(plans, batch),
    )
