"""A model that is served in a second, and a Hugging Face folder of random weights for it.

write_folder(folder)
trellax serve tests.serving.tiny_served:tiny --weights=FOLDER
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from trellax.config import finalize
from trellax.experiments import get_experiment
from trellax.runtime import Trainer
from trellax.runtime.input import ByteTokenizer
from trellax.runtime.pretrained_tokenizer import as_pretrained
from trellax.runtime.weights import write_weights

MAX_LENGTH = 512


def tiny() -> Trainer.Config:
    """A Llama of two small layers, over bytes."""
    cfg = get_experiment("llama2_7b_tpu").set(name="tiny")
    cfg.model.decoder.set(dim=32, vocab_size=258)
    cfg.model.decoder.stack.set(num_layers=2)
    cfg.model.decoder.stack.layer.attention.set(num_heads=4, num_kv_heads=2, head_dim=8)
    cfg.model.decoder.stack.layer.feed_forward.set(hidden_dim=64)
    return cfg


def write_folder(folder: Path) -> None:
    """Writes config.json, random weights and the tokenizer."""
    model_cfg: Any = tiny().model
    params = finalize(model_cfg.clone()).instantiate().init(jax.random.key(0))
    tokenizer = as_pretrained(ByteTokenizer.default_config().instantiate())
    write_weights(
        folder, params, model_config=model_cfg, max_length=MAX_LENGTH, tokenizer=tokenizer
    )
