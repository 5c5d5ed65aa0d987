"""The record of one cross-entropy call, checked once; the terms that all implementations share.

Axes: N tokens, D model, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

UnembeddingAxes = Literal["DV", "VD"]


class CrossEntropySums(NamedTuple):
    """Sums over tokens, float32 scalars. Only `total` carries a gradient: the rest are for reports.

    Attributes:
        total: loss + z_loss: what is minimised.
        loss: weighted cross-entropy, in nats.
        z_loss: weighted and scaled squared log-normaliser (PaLM, 2204.02311, section 5).
        weight: summed weights of the tokens that have a target.
    """

    total: Float[Array, ""]
    loss: Float[Array, ""]
    z_loss: Float[Array, ""]
    weight: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class CrossEntropyCall:
    """Arguments of `cross_entropy`, validated."""

    hidden_ND: Float[Array, "N D"]
    unembedding: Float[Array, "D V"]
    targets_N: Int[Array, " N"]
    weights_N: Float[Array, " N"] | None
    axes: UnembeddingAxes
    z_loss_scale: float
    soft_cap: float | None
    chunk_size: int | None

    @property
    def vocab_size(self) -> int:
        return self.unembedding.shape[self.axes.index("V")]

    @property
    def logits_bytes(self) -> int:
        """Size of all float32 logits together."""
        return 4 * self.hidden_ND.shape[0] * self.vocab_size

    def token_weights(self) -> Float[Array, " N"]:
        """Weights, zero where there is no target; no gradient flows to them."""
        has_target_N = (self.targets_N >= 0).astype(jnp.float32)
        if self.weights_N is None:
            return has_target_N
        return has_target_N * jax.lax.stop_gradient(self.weights_N.astype(jnp.float32))


def make_call(
    hidden: Array,
    unembedding: Array,
    targets: Array,
    *,
    weights: Array | None = None,
    unembedding_axes: UnembeddingAxes = "DV",
    z_loss_scale: float = 0.0,
    soft_cap: float | None = None,
    chunk_size: int | None = None,
) -> CrossEntropyCall:
    """Checks the arguments of `cross_entropy` and gathers them."""
    if unembedding_axes not in ("DV", "VD"):
        raise ValueError(f"cross_entropy: unembedding_axes is DV or VD, got {unembedding_axes!r}.")
    fits = hidden.ndim == 2 and unembedding.ndim == 2 and targets.shape == hidden.shape[:1]
    if not fits or hidden.shape[1] != unembedding.shape[unembedding_axes.index("D")]:
        raise ValueError(
            f"cross_entropy: expected hidden [N, D], unembedding [{', '.join(unembedding_axes)}], "
            f"targets [N]; got {hidden.shape}, {unembedding.shape}, {targets.shape}."
        )
    if weights is not None and weights.shape != targets.shape:
        raise ValueError(f"cross_entropy: weights {weights.shape}, targets {targets.shape}.")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"cross_entropy: chunk_size must be at least 1, got {chunk_size}.")
    return CrossEntropyCall(
        hidden,
        unembedding,
        targets,
        weights,
        unembedding_axes,
        z_loss_scale,
        soft_cap,
        chunk_size,
    )


def capped_logits(
    hidden_CD: Array, unembedding: Array, *, axes: UnembeddingAxes, soft_cap: float | None
) -> Float[Array, "C V"]:
    """Logits, float32; capped to ±soft_cap by a tanh (Gemma 2, 2408.00118, section 2)."""
    logits_CV = jnp.einsum(
        f"CD,{axes}->CV", hidden_CD, unembedding, preferred_element_type=jnp.float32
    )
    return logits_CV if soft_cap is None else soft_cap * jnp.tanh(logits_CV / soft_cap)


def target_logits(
    logits_CV: Float[Array, "C V"], targets_C: Int[Array, " C"]
) -> Float[Array, " C"]:
    """The logit of each target; of token 0 where there is none."""
    index_C1 = jnp.maximum(targets_C, 0)[:, None]
    return jnp.take_along_axis(logits_CV, index_C1, axis=1)[:, 0]
