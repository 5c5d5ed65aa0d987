"""Rehearsal: an experiment shrunk to a laptop, on the same tree and the same code path.

The modifier knows field names that decoders share (`dim`, `num_layers`, `num_heads`, `hidden_dim`),
not the classes that have them, so it shrinks what a researcher's modifier put there, too.
"""

from __future__ import annotations

from typing import Any

from trellax.config import ConfigModifier, nodes
from trellax.experiments.corpus import austen_input
from trellax.parallel import (
    LogicalAxisRules,
    MeshRule,
    MeshShape,
    RematModifier,
    save_names,
)
from trellax.runtime import Evaluator


class RehearsalModifier(ConfigModifier):
    """Shrinks the model, the batch and the sequence, and trains on the text that ships along."""

    class Config(ConfigModifier.Config):
        """
        Fields:
            dim: width of the model.
            max_layers: depth, at most.
            max_experts: of a mixture, at most; a token goes to as many of them as before.
            head_dim: of attention; heads of keys and values keep their share of the heads.
            vocab_size: of the tokenizer that is trained on the text.
            sequence_length: tokens a row.
            global_batch_size: rows a step.
            max_steps: length of training.
            peak_learning_rate: small models take larger steps.
        """

        dim: int = 128
        max_layers: int = 4
        max_experts: int = 16
        head_dim: int = 32
        vocab_size: int = 2048
        sequence_length: int = 128
        global_batch_size: int = 16
        max_steps: int = 400
        peak_learning_rate: float = 3e-3

    def apply(self, cfg: Any) -> None:
        small = self.cfg
        width = cfg.model.decoder.dim
        cfg.model.decoder.set(dim=small.dim, vocab_size=small.vocab_size)
        for _, node in nodes(cfg.model):
            self._shrink(node, small.dim / width)
        self._set_training(cfg)
        data: dict[str, Any] = {
            "vocab_size": small.vocab_size,
            "sequence_length": small.sequence_length,
            "global_batch_size": small.global_batch_size,
        }
        cfg.input = austen_input(**data)
        held_out = austen_input(**data, held_out=True)
        every = max(small.max_steps // 4, 1)
        cfg.evaluators = {
            "eval": Evaluator.default_config().set(input=held_out, every_steps=every, max_batches=8)
        }

    def _shrink(self, node: Any, scale: float) -> None:
        small = self.cfg
        if "num_layers" in node:
            node.set(num_layers=min(node.num_layers, small.max_layers))
        if "num_heads" in node and node.is_set("num_heads"):
            heads = max(small.dim // small.head_dim, 1)
            if node.num_kv_heads is not None:
                node.set(num_kv_heads=max(heads * node.num_kv_heads // node.num_heads, 1))
            node.set(num_heads=heads)
            if node.head_dim is not None:
                node.set(head_dim=small.head_dim)
        if "num_experts" in node and node.is_set("num_experts"):
            fewest = getattr(node, "experts_per_token", 1)
            node.set(num_experts=max(min(node.num_experts, small.max_experts), fewest))
        if "hidden_dim" in node and isinstance(node.hidden_dim, int):
            node.set(hidden_dim=_rounded(node.hidden_dim * scale, 32))

    def _set_training(self, cfg: Any) -> None:
        small = self.cfg
        cfg.set(
            max_steps=small.max_steps,
            compute_dtype="float32",
            accumulation_steps=1,
            log_every_steps=max(small.max_steps // 40, 1),
        )
        cfg.learner.schedule.set(
            peak=small.peak_learning_rate, warmup_steps=max(small.max_steps // 20, 1)
        )
        if cfg.checkpointer is not None:
            cfg.checkpointer.set(save_every_steps=max(small.max_steps // 8, 1))


def rehearsal_rule() -> MeshRule:
    """Returns the mesh rule of machines without an accelerator.

    Layers are rematerialized, as they are on accelerators: a CPU recomputes activations faster than
    it writes and reads them (`benchmarks/train_step.py`). What attention's backward pass needs is
    saved: it is small, and to compute it again is a loop of its own.
    """
    remat = RematModifier.default_config().set(
        target="BaseTransformerLayer",
        policy=save_names("attention_context", "attention_statistics"),
    )
    return MeshRule(
        pattern="cpu",
        description="no accelerator: rehearse the same tree at a size that a laptop holds",
        mesh_shape=MeshShape(fsdp=-1),
        axis_rules=LogicalAxisRules(),
        modifiers=(RehearsalModifier.default_config(), remat),
    )


def _rounded(value: float, multiple: int) -> int:
    return max(round(value / multiple), 1) * multiple
