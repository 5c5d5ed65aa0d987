"""Llama 2 as experiments, with the published hyperparameters: arXiv:2307.09288, section 2.2 and table 1.

trellax train llama2_7b_tpu

The feed-forward widths are those of the released configs (11,008, 13,824 and 28,672).
"""

from __future__ import annotations

from trellax.experiments.decoders import adamw_learner, pretraining
from trellax.experiments.mesh_plans import LARGE, MEDIUM, Batch, ChipPlans, mesh_rules
from trellax.layers import CausalLM, decoder_model, swiglu
from trellax.layers.attention import RotaryPositions
from trellax.runtime import Trainer

_BATCH = Batch(rows=1024, length=4096)


def llama2_7b_tpu() -> Trainer.Config:
    """Llama 2 7B on 2 T tokens in batches of 4 M."""
    model = _model(num_layers=32, dim=4096, num_heads=32, hidden_dim=11_008)
    return _trained("llama2_7b_tpu", model, peak=3e-4, plans=MEDIUM)


def llama2_13b() -> Trainer.Config:
    """Llama 2 13B on 2 T tokens in batches of 4 M."""
    model = _model(num_layers=40, dim=5120, num_heads=40, hidden_dim=13_824)
    return _trained("llama2_13b", model, peak=3e-4, plans=MEDIUM)


def llama2_70b_tpu() -> Trainer.Config:
    """Llama 2 70B (grouped-query attention) on 2 T tokens in batches of 4 M."""
    model = _model(num_layers=80, dim=8192, num_heads=64, num_kv_heads=8, hidden_dim=28_672)
    return _trained("llama2_70b_tpu", model, peak=1.5e-4, plans=LARGE)


def _model(
    *, num_layers: int, dim: int, num_heads: int, num_kv_heads: int | None = None, hidden_dim: int
) -> CausalLM.Config:
    return decoder_model(
        num_layers=num_layers,
        dim=dim,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        vocab_size=32_000,
        feed_forward=swiglu(hidden_dim),
        positions=RotaryPositions.default_config(),
    )


def _trained(name: str, model: CausalLM.Config, *, peak: float, plans: ChipPlans) -> Trainer.Config:
    return pretraining(
        name,
        model,
        adamw_learner(peak=peak),
        sequence_length=_BATCH.length,
        sequences=_BATCH.rows,
        max_steps=500_000,
        mesh_rules=mesh_rules(plans, _BATCH),
    )
