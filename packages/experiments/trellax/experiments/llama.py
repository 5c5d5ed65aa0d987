"""The Llama family as experiments, with the published hyperparameters.

Sources: Llama 2 (arXiv:2307.09288, section 2.2 and table 1), Llama 3 (arXiv:2407.21783, table 3).
Axes in comments: D model, N heads, K kv heads, F feed-forward, L layers, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from trellax.experiments.corpus import austen_input, pretraining_input
from trellax.experiments.rehearsal import rehearsal_rule
from trellax.layers import (
    CausalLM,
    Decoder,
    FeedForwardLayer,
    RMSNorm,
    ScannedStack,
    TransformerLayer,
    VarianceScalingInitializer,
)
from trellax.layers.attention import RotaryPositions
from trellax.parallel import MeshRule, MeshShape, RematModifier, dots_saveable, save_names
from trellax.runtime import AdamW, CosineSchedule, Evaluator, Learner, ParameterRule, Trainer

_QKV = ("q_proj", "k_proj", "v_proj")
_CONTEXT = "attention_context"


def llama_model(
    *,
    num_layers: int,
    dim: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    hidden_dim: int,
    vocab_size: int,
    rope_theta: float = 10_000.0,
    norm_eps: float = 1e-5,
    tied: bool = False,
) -> CausalLM.Config:
    """Returns a decoder of the family: pre-norm RMSNorm, rotary positions, SwiGLU, no biases.

    Args:
        num_layers: L.
        dim: D.
        num_heads: N.
        num_kv_heads: K; None for N.
        hidden_dim: F.
        vocab_size: V.
        rope_theta: base of the rotary frequencies.
        norm_eps: added to the mean square in every norm.
        tied: whether the output layer is the embedding.
    """
    norm = RMSNorm.default_config().set(eps=norm_eps)
    layer = TransformerLayer.default_config()
    layer.attention.set(num_heads=num_heads, num_kv_heads=num_kv_heads)
    layer.attention.positions = RotaryPositions.default_config().set(theta=rope_theta)
    layer.feed_forward = FeedForwardLayer.default_config().set(hidden_dim=hidden_dim)
    layer.set(attention_norm=norm, feed_forward_norm=norm)
    decoder = Decoder.default_config().set(dim=dim, vocab_size=vocab_size, output_norm=norm)
    decoder.stack = ScannedStack.default_config().set(layer=layer, num_layers=num_layers)
    if tied:
        decoder.lm_head = None
    else:  # First logits are near zero, the first loss near ln(V).
        decoder.lm_head.initializer = VarianceScalingInitializer.default_config().set(scale=0.02)
    return CausalLM.default_config().set(decoder=decoder)


def llama_learner(*, peak: float, warmup_steps: int = 2000) -> Learner.Config:
    """Returns the family's AdamW: cosine to a tenth of the peak, clip at 1, no decay of norms."""
    return Learner.default_config().set(
        optimizer=AdamW.default_config().set(beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.1),
        schedule=CosineSchedule.default_config().set(
            peak=peak, warmup_steps=warmup_steps, final_fraction=0.1
        ),
        max_grad_norm=1.0,
        rules=(
            ParameterRule.default_config().set(
                parameters="**.*norm.**", weight_decay_multiplier=0.0
            ),
        ),
    )


def llama2_7b_tpu() -> Trainer.Config:
    """Llama 2 7B on 2 T tokens in batches of 4 M, for TPUs."""
    model = llama_model(num_layers=32, dim=4096, num_heads=32, hidden_dim=11_008, vocab_size=32_000)
    mesh_rules = (
        _fsdp_rule("tpu-v5e-256(-[0-9]+)?", fsdp=256, policy=dots_saveable()),
        _fsdp_rule("tpu-v6e-256(-[0-9]+)?", fsdp=256, policy=dots_saveable()),
        _fsdp_rule("tpu-v5p-[0-9]+(-[0-9]+)?", fsdp=64, policy=save_names(*_QKV, _CONTEXT)),
        _fsdp_rule("tpu-v4-[0-9]+", fsdp=16, policy=save_names(*_QKV)),
    )
    return _pretraining(
        "llama2_7b_tpu",
        model,
        llama_learner(peak=3e-4),
        sequence_length=4096,
        sequences=1024,
        max_steps=500_000,
        mesh_rules=mesh_rules,
    )


def llama2_70b_tpu() -> Trainer.Config:
    """Llama 2 70B (grouped-query attention) on 2 T tokens in batches of 4 M, for TPUs."""
    model = llama_model(
        num_layers=80,
        dim=8192,
        num_heads=64,
        num_kv_heads=8,
        hidden_dim=28_672,
        vocab_size=32_000,
    )
    mesh_rules = (
        _fsdp_rule("tpu-v[56]e-256(-[0-9]+)?", fsdp=256, policy=save_names(_CONTEXT)),
        _fsdp_rule("tpu-v5p-[0-9]+(-[0-9]+)?", fsdp=-1, policy=save_names(*_QKV)),
    )
    return _pretraining(
        "llama2_70b_tpu",
        model,
        llama_learner(peak=1.5e-4),
        sequence_length=4096,
        sequences=1024,
        max_steps=500_000,
        mesh_rules=mesh_rules,
    )


def llama3_8b() -> Trainer.Config:
    """Llama 3 8B (grouped-query attention, 128 k vocabulary, 8 k context) on 15 T tokens."""
    model = llama_model(
        num_layers=32,
        dim=4096,
        num_heads=32,
        num_kv_heads=8,
        hidden_dim=14_336,
        vocab_size=128_256,
        rope_theta=500_000.0,
    )
    gpus = "gpu-(a100|h100|h200|b200)-[0-9]+"
    mesh_rules = (
        _fsdp_rule("tpu-v5p-[0-9]+(-[0-9]+)?", fsdp=64, policy=save_names(*_QKV, _CONTEXT)),
        _fsdp_rule("tpu-v[56]e-256(-[0-9]+)?", fsdp=256, policy=dots_saveable()),
        _fsdp_rule(gpus, fsdp=8, policy=dots_saveable()),
    )
    return _pretraining(
        "llama3_8b",
        model,
        llama_learner(peak=3e-4),
        sequence_length=8192,
        sequences=2048,
        max_steps=900_000,
        mesh_rules=mesh_rules,
    )


def llama_30m_local() -> Trainer.Config:
    """30 M parameters for one laptop or one accelerator: the text that ships along, for longer."""
    model = llama_model(
        num_layers=8, dim=512, num_heads=8, hidden_dim=1408, vocab_size=8192, tied=True
    )
    data: dict[str, Any] = {"vocab_size": 8192, "sequence_length": 256, "global_batch_size": 16}
    held_out = austen_input(**data, held_out=True)
    return Trainer.default_config().set(
        name="llama_30m_local",
        model=model,
        learner=llama_learner(peak=1e-3, warmup_steps=100),
        input=austen_input(**data),
        evaluators={
            "eval": Evaluator.default_config().set(input=held_out, every_steps=250, max_batches=16)
        },
        max_steps=1000,
        checkpointer=Trainer.default_config().checkpointer.set(save_every_steps=100),
        mesh_rules=(
            MeshRule(
                pattern=".*",
                description="all devices data-parallel, parameters sharded",
                mesh_shape=MeshShape(fsdp=-1),
            ),
        ),
    )


def _pretraining(
    name: str,
    model: CausalLM.Config,
    learner: Learner.Config,
    *,
    sequence_length: int,
    sequences: int,
    max_steps: int,
    mesh_rules: tuple[MeshRule, ...],
) -> Trainer.Config:
    return Trainer.default_config().set(
        name=name,
        model=model,
        learner=learner,
        input=pretraining_input(sequence_length=sequence_length, global_batch_size=sequences),
        compute_dtype="bfloat16",
        max_steps=max_steps,
        mesh_rules=(*mesh_rules, rehearsal_rule()),
    )


def _fsdp_rule(pattern: str, *, fsdp: int, policy: Any) -> MeshRule:
    """Returns the rule: parameters over `fsdp` devices (-1: all), replicas over the rest."""
    everywhere = fsdp == -1
    remat = RematModifier.default_config().set(target="BaseTransformerLayer", policy=policy)
    return MeshRule(
        pattern=pattern,
        description=(
            "FSDP over all devices"
            if everywhere
            else f"FSDP over {fsdp} devices, data-parallel over the rest"
        ),
        mesh_shape=MeshShape(fsdp=fsdp, data=1 if everywhere else -1),
        modifiers=(remat,),
    )
