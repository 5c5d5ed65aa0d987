"""Qwen3 as experiments, with the published architectures: arXiv:2505.09388, section 2, tables 1 and 2.

trellax train qwen3_30b_a3b

Widths (D, F), head size, rotary base and the weight of the load-balance loss are those of the released configs. Published
about pretraining are 36 T tokens in rows of 4,096; learning rates and batches (8 M tokens) are ours. Queries and keys of
each head are normed, nothing has a bias, and a token's weights of its 8 experts sum to one.
"""

from __future__ import annotations

from trellax.experiments.decoders import adamw_learner, pretraining
from trellax.experiments.mesh_plans import (
    FINE_EXPERTS,
    LARGE,
    MEDIUM,
    SMALL,
    Batch,
    ChipPlans,
    mesh_rules,
)
from trellax.layers import BaseLayer, CausalLM, MoELayer, TopKRouter, decoder_model, swiglu
from trellax.layers.attention import RotaryPositions
from trellax.runtime import Trainer

_BATCH = Batch(rows=2048, length=4096)


def qwen3_0_6b() -> Trainer.Config:
    """Qwen3 0.6B (tied embeddings) on 36 T tokens."""
    model = _model(num_layers=28, dim=1024, num_heads=16, feed_forward=swiglu(3072), tied=True)
    return _trained("qwen3_0_6b", model, peak=1e-3, plans=SMALL)


def qwen3_1_7b() -> Trainer.Config:
    """Qwen3 1.7B (tied embeddings) on 36 T tokens."""
    model = _model(num_layers=28, dim=2048, num_heads=16, feed_forward=swiglu(6144), tied=True)
    return _trained("qwen3_1_7b", model, peak=6e-4, plans=SMALL)


def qwen3_4b() -> Trainer.Config:
    """Qwen3 4B (tied embeddings) on 36 T tokens."""
    model = _model(num_layers=36, dim=2560, num_heads=32, feed_forward=swiglu(9728), tied=True)
    return _trained("qwen3_4b", model, peak=4e-4, plans=SMALL)


def qwen3_8b() -> Trainer.Config:
    """Qwen3 8B on 36 T tokens."""
    model = _model(num_layers=36, dim=4096, num_heads=32, feed_forward=swiglu(12_288))
    return _trained("qwen3_8b", model, peak=3e-4, plans=MEDIUM)


def qwen3_14b() -> Trainer.Config:
    """Qwen3 14B on 36 T tokens."""
    model = _model(num_layers=40, dim=5120, num_heads=40, feed_forward=swiglu(17_408))
    return _trained("qwen3_14b", model, peak=3e-4, plans=MEDIUM)


def qwen3_32b() -> Trainer.Config:
    """Qwen3 32B on 36 T tokens."""
    model = _model(num_layers=64, dim=5120, num_heads=64, feed_forward=swiglu(25_600))
    return _trained("qwen3_32b", model, peak=1.5e-4, plans=LARGE)


def qwen3_30b_a3b() -> Trainer.Config:
    """Qwen3 30B-A3B (128 experts, 8 a token: 3.3 B of 30.5 B parameters active) on 36 T tokens."""
    router = TopKRouter.default_config().set(load_balance_weight=1e-3, z_loss_weight=0.0)
    experts = MoELayer.default_config().set(
        hidden_dim=768, num_experts=128, experts_per_token=8, router=router
    )
    model = _model(num_layers=48, dim=2048, num_heads=32, num_kv_heads=4, feed_forward=experts)
    return _trained("qwen3_30b_a3b", model, peak=4e-4, plans=FINE_EXPERTS)


def _model(
    *,
    num_layers: int,
    dim: int,
    num_heads: int,
    num_kv_heads: int = 8,
    feed_forward: BaseLayer.Config,
    tied: bool = False,
) -> CausalLM.Config:
    return decoder_model(
        num_layers=num_layers,
        dim=dim,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=128,
        vocab_size=151_936,
        feed_forward=feed_forward,
        positions=RotaryPositions.default_config().set(theta=1e6),
        norm_eps=1e-6,
        normed_heads=True,
        tied=tied,
    )


def _trained(name: str, model: CausalLM.Config, *, peak: float, plans: ChipPlans) -> Trainer.Config:
    return pretraining(
        name,
        model,
        adamw_learner(peak=peak),
        sequence_length=_BATCH.length,
        sequences=_BATCH.rows,
        max_steps=4_290_000,
        mesh_rules=mesh_rules(plans, _BATCH),
    )
