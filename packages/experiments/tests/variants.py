"""Experiment variants by the thousand, each with its number of parameters by hand.

    for variant in variants(1000): trainer_cfg = variant.trainer_cfg()

A variant is a family x size x attention x position encoding x norm x norm placement x stack. The
arithmetic below is from the papers' shapes alone; it never looks at a config or a module.

L layers, D model, N heads, K kv heads, H head dim, F feed-forward, E experts, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

from trellax.experiments import get_experiment
from trellax.layers import (
    LayerNorm,
    LearnedPositionEmbedding,
    ParallelTransformerLayer,
    RMSNorm,
    ScannedStack,
    SequentialStack,
    TransformerLayer,
    UnrolledStack,
)
from trellax.layers.attention import (
    AlibiPositions,
    NoPositions,
    RotaryPositions,
    SinusoidalPositions,
)

V, T, H = 512, 64, 8
FAMILIES = ("llama", "gpt2", "gemma", "qwen3", "palm")
SIZES = ((1, 32, 96), (2, 64, 160), (4, 128, 352))  # L, D, F
NUM_KV_HEADS = {"mha": lambda N: N, "gqa": lambda N: N // 2, "mqa": lambda N: 1}
POSITIONS: dict[str, Any] = {
    "rotary": RotaryPositions.default_config(),
    "partly rotary": RotaryPositions.default_config().set(rotary_fraction=0.5),
    "alibi": AlibiPositions.default_config(),
    "sinusoidal": SinusoidalPositions.default_config(),
    "none": NoPositions.default_config(),
}
NORMS: dict[str, tuple[Any, int]] = {  # Config, and parameters for each dim.
    "rms": (RMSNorm.default_config(), 1),
    "layer": (LayerNorm.default_config(), 2),
    "layer without bias": (LayerNorm.default_config().set(bias=False), 1),
}
PLACES = {
    "pre": ("norm",),
    "post": ("residual_norm",),
    "hybrid": ("norm", "output_norm"),
    "output": ("output_norm",),
}
STACKS = ("scanned", "unrolled", "sequential", "scanned pairs")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One point of the grid."""

    family: str
    size: tuple[int, int, int]
    attention: str
    position: str
    norm: str
    place: str
    stack: str

    # ---- the config -----------------------------------------------------------------------------

    def trainer_cfg(self) -> Any:
        """Returns the experiment's config."""
        _, D, _ = self.size
        cfg = get_experiment("llama_30m_local").set(name=repr(self))
        decoder = cfg.model.decoder.set(dim=D, vocab_size=V, output_norm=self._norm())
        decoder.stack = self._stack_cfg(self._layer_cfg())
        if self.family == "gpt2":
            decoder.position_embedding = LearnedPositionEmbedding.default_config().set(max_length=T)
        if self.family == "gemma":
            decoder.set(logit_soft_cap=30.0).embedding.set(scale="sqrt_dim")
        if self.family in ("llama", "qwen3"):
            decoder.lm_head = get_experiment("llama2_7b_tpu").model.decoder.lm_head
        return cfg

    def _norm(self) -> Any:
        return NORMS[self.norm][0]

    def _layer_cfg(self) -> Any:
        D, F = self.size[1:]
        parallel = self.family == "palm"
        layer: Any = (ParallelTransformerLayer if parallel else TransformerLayer).default_config()
        layer.attention.set(num_heads=D // H, num_kv_heads=NUM_KV_HEADS[self.attention](D // H))
        layer.attention.positions = POSITIONS[self.position]
        if self.family == "qwen3":
            layer.attention.set(query_norm=self._norm(), key_norm=self._norm())
        gated = self.family != "gpt2"
        layer.feed_forward.set(hidden_dim=F, gated=gated, activation="silu" if gated else "gelu")
        if parallel:
            return layer.set(attention_norm=self._norm())
        layer.set(attention_norm=None, feed_forward_norm=None)
        for slot in PLACES[self.place]:
            layer.set(**{f"attention_{slot}": self._norm(), f"feed_forward_{slot}": self._norm()})
        return layer

    def _stack_cfg(self, layer: Any) -> Any:
        L = self.size[0]
        pair = SequentialStack.default_config().set(layers=[layer, layer])
        return {
            "scanned": ScannedStack.default_config().set(layer=layer, num_layers=L),
            "unrolled": UnrolledStack.default_config().set(layer=layer, num_layers=L),
            "sequential": SequentialStack.default_config().set(layers=[layer] * L),
            "scanned pairs": ScannedStack.default_config().set(layer=pair, num_layers=L),
        }[self.stack]

    # ---- the arithmetic -------------------------------------------------------------------------

    @property
    def num_feed_forwards(self) -> int:
        """How many feed-forward configs the tree holds."""
        return {"sequential": self.size[0], "scanned pairs": 2}.get(self.stack, 1)

    def num_parameters(self, *, num_experts: int = 0, learned_positions: bool = True) -> int:
        """Returns the number of parameters; `num_experts` 0 is a dense feed-forward layer."""
        L, D, F = self.size
        matrices = (2 if self.family == "gpt2" else 3) * D * F
        feed_forward = D * num_experts + num_experts * matrices if num_experts else matrices
        layers = 2 * L if self.stack == "scanned pairs" else L
        vectors = V + (T if self.family == "gpt2" and learned_positions else 0)
        head = V * D if self.family in ("llama", "qwen3") else 0
        per_layer = self._attention_parameters() + feed_forward + self._norm_parameters()
        return vectors * D + layers * per_layer + NORMS[self.norm][1] * D + head

    def _attention_parameters(self) -> int:
        D = self.size[1]
        N = D // H
        kv = 2 * D * NUM_KV_HEADS[self.attention](N) * H
        head_norms = 2 * H * NORMS[self.norm][1] if self.family == "qwen3" else 0
        return 2 * D * N * H + kv + head_norms

    def _norm_parameters(self) -> int:
        num = 1 if self.family == "palm" else 2 * len(PLACES[self.place])
        return num * NORMS[self.norm][1] * self.size[1]


def variants(count: int) -> list[Variant]:
    """Returns `count` different variants, the same each time."""
    axes = (FAMILIES, SIZES, NUM_KV_HEADS, POSITIONS, NORMS, PLACES, STACKS)
    grid = [Variant(*point) for point in itertools.product(*axes)]
    return random.Random(0).sample(grid, count)
