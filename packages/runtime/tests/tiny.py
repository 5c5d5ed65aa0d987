"""A whole training run that takes a second: a two-layer decoder on a few sentences of bytes."""

from __future__ import annotations

from typing import Any

from trellax.layers import CausalLM, Decoder, ScannedStack, TransformerLayer
from trellax.runtime import AdamW, Checkpointer, ConstantSchedule, Evaluator, Learner, Trainer
from trellax.runtime.input import ByteTokenizer, DocumentSequences, InMemoryDocuments, Input
from trellax.runtime.writers import JsonlWriter

TEXTS = [f"Document {i} counts to {i * i} and says no more than that." for i in range(40)]


def tiny_model(*, num_layers: int = 2, dim: int = 16, num_heads: int = 2) -> Any:
    """Returns the config of a causal language model over bytes."""
    layer = TransformerLayer.default_config()
    layer.attention.set(num_heads=num_heads)
    layer.feed_forward.set(hidden_dim=2 * dim)
    stack = ScannedStack.default_config().set(layer=layer, num_layers=num_layers)
    decoder = Decoder.default_config().set(dim=dim, vocab_size=320, stack=stack)
    return CausalLM.default_config().set(decoder=decoder)


def tiny_input(*, batch_size: int = 4, length: int = 16, repeat: bool = True) -> Any:
    """Returns the config of packed rows of bytes."""
    documents = InMemoryDocuments.default_config().set(texts=TEXTS)
    return Input.default_config().set(
        dataset=DocumentSequences.default_config().set(documents=documents),
        tokenizer=ByteTokenizer.default_config(),
        global_batch_size=batch_size,
        sequence_length=length,
        repeat=repeat,
    )


def tiny_trainer(*, max_steps: int = 8, save_every_steps: int | None = 4) -> Any:
    """Returns the config of a trainer that logs every step to metrics.jsonl."""
    return Trainer.default_config().set(
        model=tiny_model(),
        learner=Learner.default_config().set(
            optimizer=AdamW.default_config(),
            schedule=ConstantSchedule.default_config().set(peak=1e-2),
        ),
        input=tiny_input(),
        evaluators={
            "eval": Evaluator.default_config().set(input=tiny_input(repeat=False), max_batches=2)
        },
        checkpointer=Checkpointer.default_config().set(save_every_steps=save_every_steps),
        writer=JsonlWriter.default_config(),
        log_every_steps=1,
        max_steps=max_steps,
    )
