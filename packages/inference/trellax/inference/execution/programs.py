"""The functions that are compiled for a step: the model's pass over it, and what becomes of its logits.

    logits_RV, scored_TV, state = forward(params, state, last_ids_S, packed)
    packed_RX, last_ids_S = draw(logits_RV, last_ids_S, slots_R, rows)

They are two programs, so that there are few of each: the first depends on a step's sizes, the second on how its requests are
sampled. The host can look at the tokens of one step (and find out what a grammar allows next) while the next one's pass computes.

Axes: S slots, T tokens of the flat batch, R rows of logits, V vocabulary, X packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from trellax.inference.execution.inputs import UNKNOWN, StepInputs, unpack_inputs
from trellax.inference.execution.shapes import StepShape
from trellax.inference.sampling import SamplerVariant, SamplingRows, sample, verify
from trellax.layers import (
    BaseLayer,
    RowGroup,
    TokenInfo,
    functional,
    is_state_axis,
    with_updates,
)

Tree = dict[str, Any]


class Seen(NamedTuple):
    """Tokens of the sequences in each slot, for penalties.

    Attributes:
        counts: how often each was generated.
        prompt: whether it is in the prompt.
    """

    counts: Int[Array, "S V"]
    prompt: Bool[Array, "S V"]


def forward_fn(model: BaseLayer, shape: StepShape, width: int) -> Callable[..., Any]:
    """Returns the model's pass over a step.

    Args:
        model: has `logits(input_ids_BS, tokens, at_R=)`.
        shape: of the step.
        width: of block tables.
    """

    def forward(
        params: Tree,
        state: Tree,
        last_ids_S: Int[Array, " S"],
        packed: Int[Array, " X"],
        draft_DK: Int[Array, "D K"] | None,
    ) -> tuple[Float[Array, "R V"], Float[Array, "T V"] | None, Tree]:
        inputs = unpack_inputs(packed, shape, width)
        logits_1RV, collection = functional(
            model,
            params=params,
            args=(
                _input_ids(inputs, shape, last_ids_S, draft_DK)[None],
                _token_info(inputs, shape),
            ),
            kwargs={"at_R": inputs.draws_at},
            state=state,
            is_training=False,
            method="logits",
        )
        logits_RV, num_draws = logits_1RV[0], shape.num_draws
        scored_TV = logits_RV[num_draws:] if shape.scores else None
        return logits_RV[:num_draws], scored_TV, with_updates(state, collection.state_updates)

    return forward


def _input_ids(
    inputs: StepInputs, shape: StepShape, last_ids_S: Array, draft_DK: Array | None
) -> Int[Array, " T"]:
    D, Q = shape.decode_rows, shape.tokens_per_decode
    first_D = inputs.ids[: D * Q : Q]
    last_D = jnp.take(last_ids_S, inputs.decode_slots, mode="clip")
    decoded_DQ = jnp.where(first_D == UNKNOWN, last_D, first_D)[:, None]
    if draft_DK is not None:
        decoded_DQ = jnp.concatenate([decoded_DQ, draft_DK], axis=1)
    return jnp.concatenate([decoded_DQ.reshape(-1), inputs.ids[D * Q :]])


def _token_info(inputs: StepInputs, shape: StepShape) -> TokenInfo:
    groups = []
    if shape.decode_rows:
        decode = (inputs.decode_slots, inputs.decode_tables)
        groups.append(RowGroup(shape.tokens_per_decode, *decode))
    if shape.tiles:
        groups.append(RowGroup(shape.tile_length, inputs.tile_slots, inputs.tile_tables))
    is_token = inputs.positions >= 0
    positions = jnp.where(is_token, inputs.positions, 0)
    return TokenInfo(positions[None], is_token.astype(jnp.int32)[None], tuple(groups))


def draw_fn(variant: SamplerVariant) -> Callable[..., Any]:
    """Returns the program that draws a token from each row of logits and keeps it as its slot's last."""

    def draw(
        logits_RV: Float[Array, "R V"],
        last_ids_S: Int[Array, " S"],
        seen: Seen | None,
        slots_R: Int[Array, " R"],
        rows: SamplingRows,
        bias: Any,
        allowed_RW: Any,
    ) -> tuple[Int[Array, "R X"], Int[Array, " S"], Seen | None]:
        edits: dict[str, Any] = {}
        if variant.penalizes:
            assert seen is not None
            edits = _seen_by(seen, slots_R)
        if variant.edits:
            edits |= {"bias": bias, "allowed_RW": allowed_RW}
        sampled = sample(logits_RV, rows, variant=variant, **edits)
        last_ids_S = last_ids_S.at[slots_R].set(sampled.token_R, mode="drop")
        if seen is not None and variant.penalizes:
            counts = seen.counts.at[slots_R, sampled.token_R].add(1, mode="drop")
            seen = seen._replace(counts=counts)
        return sampled.packed_RX, last_ids_S, seen

    return draw


def check_fn(variant: SamplerVariant, shape: StepShape) -> Callable[..., Any]:
    """Returns the program that checks the drafts of each row, and draws the token after those that it accepts.

    Args:
        variant: how rows are sampled; penalties and edits are not for rows with drafts, which then have none.
        shape: of the step. Its decoding rows have Q rows of logits each, prompts that end have one.
    """
    D, Q, P = shape.decode_rows, shape.tokens_per_decode, shape.prefill_draws

    def check(
        logits_NV: Float[Array, "N V"],
        last_ids_S: Int[Array, " S"],
        seen: Seen | None,
        slots_R: Int[Array, " R"],
        rows: SamplingRows,
        bias: Any,
        allowed_RW: Any,
        draft_DK: Int[Array, "D K"],
        num_drafts_D: Int[Array, " D"],
        probs_DKV: Float[Array, "D K V"] | None,
        certain_D: Bool[Array, " D"] | None,
    ) -> tuple[Int[Array, "R X"], Int[Array, " S"], Seen | None]:
        V = logits_NV.shape[-1]
        decoded = logits_NV[: D * Q].reshape(D, Q, V)
        # A prompt's row has no drafts, so that only the first of its positions is read.
        ended = jnp.broadcast_to(logits_NV[D * Q : D * Q + P, None], (P, Q, V))
        logits_RQV = jnp.concatenate([decoded, ended])
        for_all = lambda x: jnp.pad(x, [(0, P), *[(0, 0)] * (x.ndim - 1)])
        edits: dict[str, Any] = {}
        if variant.penalizes:
            assert seen is not None
            edits = _seen_by(seen, slots_R)
        if variant.edits:
            each = lambda x: jnp.repeat(x[:, None], Q, axis=1)
            edits |= {"bias": tuple(map(each, bias)), "allowed_RQW": each(allowed_RW)}
        found = verify(
            logits_RQV,
            for_all(draft_DK),
            for_all(num_drafts_D),
            rows,
            variant=variant,
            draft_probs_RKV=None if probs_DKV is None else for_all(probs_DKV),
            certain_R=None if certain_D is None else for_all(certain_D),
            **edits,
        )
        if seen is not None and variant.penalizes:
            row_R1 = slots_R[:, None]
            tokens_RQ = jnp.where(found.tokens_RQ < 0, seen.counts.shape[1], found.tokens_RQ)
            seen = seen._replace(counts=seen.counts.at[row_R1, tokens_RQ].add(1, mode="drop"))
        return found.packed_RX, last_ids_S, seen

    return check


def _seen_by(seen: Seen, slots_R: Int[Array, " R"]) -> dict[str, Array]:
    """Returns what penalties read of the rows' sequences."""
    take = lambda x: jnp.take(x, slots_R, axis=0, mode="clip")
    return {"counts_RV": take(seen.counts), "prompt_RV": take(seen.prompt)}


def see(
    seen: Seen, slot: Int[Array, ""], prompt_ids: Int[Array, " L"], output_ids: Int[Array, " L"]
) -> Seen:
    """Returns what was seen with a slot's sequence replaced; ids of V and more are padding."""
    counts_V = jnp.zeros(seen.counts.shape[1], seen.counts.dtype)
    prompt_V = jnp.zeros(seen.prompt.shape[1], jnp.bool_)
    return Seen(
        seen.counts.at[slot].set(counts_V.at[output_ids].add(1, mode="drop")),
        seen.prompt.at[slot].set(prompt_V.at[prompt_ids].set(True, mode="drop")),
    )


def moved_in(state: Tree, axes: Tree, indices: dict[str, Array], arrays: Tree) -> Tree:
    """Returns the state with entries of one sequence set: pages and slot, as `axes` says."""
    return jax.tree.map(
        lambda axis, x, new: x.at[(slice(None),) * axis.axis + (indices[axis.kind],)].set(
            new, mode="drop"
        ),
        axes,
        state,
        arrays,
        is_leaf=is_state_axis,
    )


def moved_out(state: Tree, axes: Tree, indices: dict[str, Array]) -> Tree:
    """Returns the entries of one sequence."""
    return jax.tree.map(
        lambda axis, x: jnp.take(x, indices[axis.kind], axis=axis.axis, mode="clip"),
        axes,
        state,
        is_leaf=is_state_axis,
    )
