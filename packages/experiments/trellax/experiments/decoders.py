"""How the decoders of published families are trained: what a recipe fills in.

cfg = pretraining(name="mine", model=decoder_model(…), learner=adamw_learner(peak=3e-4), …)
"""

from __future__ import annotations

from collections.abc import Sequence

from trellax.experiments.corpus import pretraining_input
from trellax.experiments.rehearsal import rehearsal_rule
from trellax.layers import CausalLM
from trellax.parallel import MeshRule
from trellax.runtime import AdamW, CosineSchedule, Learner, ParameterRule, Trainer


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
