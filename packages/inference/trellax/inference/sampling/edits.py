"""What requests change of a model's logits before anything is drawn: penalties, then biases, then masks.

    edited_RV = edited_logits(logits_RV, rows, variant, counts_RV=counts_RV, prompt_RV=prompt_RV, bias=None, allowed_RW=None)

Axes: R rows, V vocabulary, B biases of a row, W words of 32 tokens.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from trellax.inference.sampling.rows import SamplerVariant, SamplingRows

Bias = tuple[Int[Array, "R B"], Float[Array, "R B"]]
"""Token ids and what is added to their logits, -inf to ban them. Ids of V or more do nothing."""


def edited_logits(
    logits_RV: Float[Array, "R V"],
    rows: SamplingRows,
    variant: SamplerVariant,
    *,
    counts_RV: Int[Array, "R V"] | None,
    prompt_RV: Bool[Array, "R V"] | None,
    bias: Bias | None,
    allowed_RW: UInt[Array, "R W"] | None,
) -> Float[Array, "R V"]:
    """Returns the logits as `sample` documents it; the same array where the variant has nothing to change."""
    if not (variant.penalizes or variant.edits):
        return logits_RV
    logits_RV = logits_RV.astype(jnp.float32)
    if variant.penalizes:
        assert counts_RV is not None and prompt_RV is not None, "Penalties take counts and prompt."
        logits_RV = _penalized(logits_RV, rows, counts_RV, prompt_RV)
    if variant.edits and bias is not None:
        ids_RB, values_RB = bias
        row_R1 = jnp.arange(logits_RV.shape[0])[:, None]
        logits_RV = logits_RV.at[row_R1, ids_RB].add(values_RB, mode="drop")
    if variant.edits and allowed_RW is not None:
        # What is not a number stays so: the row must be seen to have failed.
        keep_RV = _unpacked(allowed_RW, logits_RV.shape[-1]) | jnp.isnan(logits_RV)
        logits_RV = jnp.where(keep_RV, logits_RV, -jnp.inf)
    # Several passes read the result; none is to compute it again, perhaps to other last bits.
    return lax.optimization_barrier(logits_RV)


def _penalized(
    logits_RV: Float[Array, "R V"],
    rows: SamplingRows,
    counts_RV: Int[Array, "R V"],
    prompt_RV: Bool[Array, "R V"],
) -> Float[Array, "R V"]:
    generated_RV = counts_RV > 0
    repetition_R1 = rows.repetition[:, None]
    repeated_RV = jnp.where(logits_RV > 0, logits_RV / repetition_R1, logits_RV * repetition_R1)
    logits_RV = jnp.where(generated_RV | prompt_RV, repeated_RV, logits_RV)
    logits_RV = logits_RV - rows.frequency[:, None] * counts_RV.astype(jnp.float32)
    return logits_RV - rows.presence[:, None] * generated_RV.astype(jnp.float32)


def _unpacked(allowed_RW: UInt[Array, "R W"], vocab_size: int) -> Bool[Array, "R V"]:
    """Returns the bits of words, the lowest first."""
    bits_RW32 = (allowed_RW[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return bits_RW32.reshape(allowed_RW.shape[0], -1)[:, :vocab_size] != 0
