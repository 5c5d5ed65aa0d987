"""Tiny language models of several kinds, with parameters that make confident predictions.

model, params = built(KINDS["grouped queries"]())
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from trellax.config import replace_config
from trellax.layers import (
    CausalLM,
    Decoder,
    FeedForwardLayer,
    LearnedPositionEmbedding,
    MoELayer,
    ScannedStack,
    TransformerLayer,
    UnrolledStack,
    is_spec,
)
from trellax.layers.attention import AlibiPositions, NoPositions, SlidingWindow

VOCAB_SIZE = 64


def llama(*, num_kv_heads: int | None = None) -> Any:
    """Returns two layers with rotary positions."""
    layer = TransformerLayer.default_config()
    layer.attention.set(num_heads=4, num_kv_heads=num_kv_heads)
    layer.feed_forward.set(hidden_dim=48)
    stack = ScannedStack.default_config().set(layer=layer, num_layers=2)
    decoder = Decoder.default_config().set(dim=32, vocab_size=VOCAB_SIZE, stack=stack)
    return CausalLM.default_config().set(decoder=decoder)


def alibi() -> Any:
    cfg = llama()
    cfg.decoder.stack.layer.attention.positions = AlibiPositions.default_config()
    return cfg


def learned_positions() -> Any:
    cfg = llama()
    cfg.decoder.stack.layer.attention.positions = NoPositions.default_config()
    cfg.decoder.position_embedding = LearnedPositionEmbedding.default_config().set(max_length=64)
    return cfg


def sliding_window() -> Any:
    cfg = llama()
    cfg.decoder.stack.layer.attention.mask = SlidingWindow.default_config().set(window=4)
    return cfg


def unrolled() -> Any:
    cfg = llama()
    replace_config(cfg, ScannedStack, UnrolledStack.default_config())
    return cfg


def experts() -> Any:
    cfg = llama()
    replace_config(cfg, FeedForwardLayer, MoELayer.default_config().set(num_experts=4))
    return cfg


KINDS = {
    "rotary": llama,
    "grouped queries": lambda: llama(num_kv_heads=2),
    "one kv head": lambda: llama(num_kv_heads=1),
    "alibi": alibi,
    "learned positions": learned_positions,
    "sliding window": sliding_window,
    "unrolled": unrolled,
    "experts": experts,
}


def built(cfg: Any) -> tuple[Any, Any]:
    """Returns (model, parameters): ones in norms, else Gaussian, drawn without compiling anything."""
    model = cfg.instantiate()
    rng = np.random.default_rng(7)

    def drawn(spec: Any) -> np.ndarray:
        shape, is_norm = spec.shape, "norm" in spec.logical_axes
        return np.ones(shape, "f4") if is_norm else rng.normal(0.0, 0.2, shape).astype("f4")

    return model, jax.tree.map(drawn, model.all_parameter_specs(), is_leaf=is_spec)
