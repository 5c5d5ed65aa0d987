"""The decoder that published families share, and how they are trained: what a recipe fills in.

    model = decoder_model(num_layers=32, dim=4096, num_heads=32, vocab_size=32_000, feed_forward=swiglu(11_008), …)
    cfg = pretraining(name="mine", model=model, learner=adamw_learner(peak=3e-4), …)

What differs between families (experts or not, norms of queries and keys, scaling of positions) is a config that the
recipe passes in, so nothing here asks which family it is for.
"""

from __future__ import annotations

from collections.abc import Sequence

from trellax.experiments.corpus import pretraining_input
from trellax.experiments.rehearsal import rehearsal_rule
from trellax.layers import (
    BaseLayer,
    CausalLM,
    Decoder,
    FeedForwardLayer,
    RMSNorm,
    ScannedStack,
    TransformerLayer,
    VarianceScalingInitializer,
)
from trellax.layers.attention import Positions
from trellax.parallel import MeshRule
from trellax.runtime import AdamW, CosineSchedule, Learner, ParameterRule, Trainer


def decoder_model(
    *,
    num_layers: int,
    dim: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    vocab_size: int,
    feed_forward: BaseLayer.Config,
    positions: Positions.Config,
    norm_eps: float = 1e-5,
    normed_heads: bool = False,
    tied: bool = False,
) -> CausalLM.Config:
    """Returns a pre-norm decoder: RMSNorm, grouped-query attention, no biases.

    Args:
        num_layers: L.
        dim: D.
        num_heads: N.
        num_kv_heads: K; None for N.
        head_dim: H; None for D / N.
        vocab_size: V.
        feed_forward: what follows attention in every layer.
        positions: how queries and keys learn where they stand.
        norm_eps: added to the mean square in every norm.
        normed_heads: whether each head's queries and keys are normed before positions (arXiv:2302.05442).
        tied: whether the output layer is the embedding.
    """
    norm = RMSNorm.default_config().set(eps=norm_eps)
    layer = TransformerLayer.default_config()
    layer.attention.set(
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, positions=positions
    )
    if normed_heads:
        layer.attention.set(query_norm=norm, key_norm=norm)
    layer.set(attention_norm=norm, feed_forward=feed_forward, feed_forward_norm=norm)
    decoder = Decoder.default_config().set(dim=dim, vocab_size=vocab_size, output_norm=norm)
    decoder.stack = ScannedStack.default_config().set(layer=layer, num_layers=num_layers)
    if tied:
        decoder.lm_head = None
    else:  # First logits are near zero, the first loss near ln(V).
        decoder.lm_head.initializer = VarianceScalingInitializer.default_config().set(scale=0.02)
    return CausalLM.default_config().set(decoder=decoder)


def swiglu(hidden_dim: int) -> FeedForwardLayer.Config:
    """Returns a gated feed-forward layer with SiLU (Shazeer 2020, arXiv:2002.05202)."""
    return FeedForwardLayer.default_config().set(hidden_dim=hidden_dim)


def adamw_learner(
    *, peak: float, warmup_steps: int = 2000, final_fraction: float = 0.1
) -> Learner.Config:
    """Returns AdamW with a cosine to a fraction of the peak, clip at 1, no decay of norms."""
    return Learner.default_config().set(
        optimizer=AdamW.default_config().set(beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.1),
        schedule=CosineSchedule.default_config().set(
            peak=peak, warmup_steps=warmup_steps, final_fraction=final_fraction
        ),
        max_grad_norm=1.0,
        rules=(
            ParameterRule.default_config().set(
                parameters="**.*norm.**", weight_decay_multiplier=0.0
            ),
        ),
    )


def pretraining(
    name: str,
    model: CausalLM.Config,
    learner: Learner.Config,
    *,
    sequence_length: int,
    sequences: int,
    max_steps: int,
    mesh_rules: Sequence[MeshRule],
) -> Trainer.Config:
    """Returns the trainer of a full-size run, which rehearses where there is no accelerator.

    Args:
        name: of the experiment.
        model: what is trained.
        learner: how.
        sequence_length: tokens a row.
        sequences: rows a step.
        max_steps: steps.
        mesh_rules: for accelerators, special ones first.
    """
    return Trainer.default_config().set(
        name=name,
        model=model,
        learner=learner,
        input=pretraining_input(sequence_length=sequence_length, global_batch_size=sequences),
        compute_dtype="bfloat16",
        max_steps=max_steps,
        mesh_rules=(*mesh_rules, rehearsal_rule()),
    )
