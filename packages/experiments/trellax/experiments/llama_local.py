"""A small Llama for one laptop or one accelerator, on the text that ships along.

trellax train llama_30m_local
"""

from __future__ import annotations

from typing import Any

from trellax.experiments.corpus import austen_input
from trellax.experiments.decoders import adamw_learner
from trellax.experiments.mesh_plans import trainium_modifiers
from trellax.layers import decoder_model, swiglu
from trellax.layers.attention import RotaryPositions
from trellax.parallel import MeshRule, MeshShape
from trellax.runtime import Evaluator, Trainer


def llama_30m_local() -> Trainer.Config:
    """30 M parameters for one laptop or one accelerator: the text that ships along, for longer."""
    model = decoder_model(
        num_layers=8,
        dim=512,
        num_heads=8,
        vocab_size=8192,
        feed_forward=swiglu(1408),
        positions=RotaryPositions.default_config(),
        tied=True,
    )
    data: dict[str, Any] = {"vocab_size": 8192, "sequence_length": 256, "global_batch_size": 16}
    held_out = austen_input(**data, held_out=True)
    return Trainer.default_config().set(
        name="llama_30m_local",
        model=model,
        learner=adamw_learner(peak=1e-3, warmup_steps=100),
        input=austen_input(**data),
        evaluators={
            "eval": Evaluator.default_config().set(input=held_out, every_steps=250, max_batches=16)
        },
        max_steps=1000,
        checkpointer=Trainer.default_config().checkpointer.set(save_every_steps=100),
        mesh_rules=(_everywhere("trn2-.*", trainium_modifiers()), _everywhere(".*")),
    )


def _everywhere(pattern: str, modifiers: tuple[Any, ...] = ()) -> MeshRule:
    return MeshRule(
        pattern=pattern,
        description="all devices data-parallel, parameters sharded",
        mesh_shape=MeshShape(fsdp=-1),
        modifiers=modifiers,
    )
