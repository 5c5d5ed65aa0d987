"""Tokens are drawn as their parameters say, whatever is drawn beside them. Axes: R rows, V vocabulary."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling import reference
from trellax.inference.requests import SamplingParams
from trellax.inference.sampling import (
    SamplerVariant,
    SamplingRows,
    sample,
    unpack,
    variant_for,
)
from trellax.inference.sampling.edits import edited_logits
from trellax.inference.sampling.stripes import Stripes, column_peaks
from trellax.inference.sampling.support import Limits, support_cut
from trellax.inference.sampling.truncation import Cut
from trellax.inference.sampling.weights import Weights

V = 100
MOST = SamplerVariant(truncates=True, penalizes=True, edits=True, num_logprobs=20)
MOST_DRAWING = SamplerVariant(truncates=True, num_logprobs=20)
MIXED: list[dict[str, Any]] = [
    {},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"top_k": 20, "top_p": 0.5, "min_p": 0.01},
]
RUN = jax.jit(sample, static_argnames="variant")
EDITED = jax.jit(edited_logits, static_argnums=2)


@jax.jit
def SUPPORT(logits_RV: jax.Array, rows: SamplingRows) -> jax.Array:  # noqa: N802
    """Returns which tokens can be drawn."""
    stripes = Stripes.of(logits_RV.shape[1])
    padded_RV = stripes.pad(logits_RV, fill=-jnp.inf)
    peaks_RC = column_peaks(stripes, padded_RV)
    weights = Weights.at_temperature(stripes, padded_RV, peaks_RC.max(-1), rows.temperature)
    limits = Limits.of(weights, peaks_RC, rows, rows.temperature > 0)
    cut = support_cut(weights, limits, rows)
    ids_V = jnp.arange(logits_RV.shape[1])
    return Cut(cut.logit[:, None], cut.id[:, None]).before(logits_RV, ids_V)


def mask_words(allowed: list[int]) -> np.ndarray:
    """Returns the uint32 words of a row's mask."""
    words = np.zeros(-(-V // 32), np.uint32)
    for v in allowed:
        words[v // 32] |= np.uint32(1 << v % 32)
    return words


def edits_of(params: list[SamplingParams], histories: list[tuple]) -> dict[str, Any]:
    """Returns `sample`'s inputs for prompts, generated, banned and allowed tokens."""
    ids_RB = np.full((len(params), 12), V, np.int32)
    values_RB = np.zeros((len(params), 12), np.float32)
    for i, (one, (_, _, banned, _)) in enumerate(zip(params, histories, strict=True)):
        pairs = [*one.logit_bias, *((v, -np.inf) for v in banned)]
        ids_RB[i, : len(pairs)] = [v for v, _ in pairs]
        values_RB[i, : len(pairs)] = [b for _, b in pairs]
    return {
        "prompt_RV": np.stack([np.isin(np.arange(V), h[0]) for h in histories]),
        "counts_RV": np.stack([np.bincount(h[1], minlength=V) for h in histories]).astype(np.int32),
        "bias": (ids_RB, values_RB),
        "allowed_RW": np.stack([mask_words(h[3]) for h in histories]),
    }


def run(logits_RV: Any, params: list[SamplingParams], **options: Any) -> np.ndarray:
    """Returns a token a row; `seeds` and `steps` default to the row's number and 0, the variant to the least that does."""
    R = len(logits_RV)
    seeds, steps = options.pop("seeds", range(R)), options.pop("steps", [0] * R)
    variant = options.pop("variant", None) or variant_for(params, False)
    rows = SamplingRows.of(params, seeds, steps, R)
    return np.asarray(RUN(jnp.asarray(logits_RV), rows, variant=variant, **options).token_R)


def drawn(logits_V: np.ndarray, params: SamplingParams, num_draws: int = 1024) -> np.ndarray:
    """Returns how often each token is drawn, each time with another seed."""
    logits_RV = np.broadcast_to(logits_V.astype(np.float32), (num_draws, len(logits_V)))
    variant = SamplerVariant(truncates=True)
    tokens = run(logits_RV, [params] * num_draws, variant=variant)
    return np.bincount(tokens, minlength=len(logits_V))


def chi_square(counts_V: np.ndarray, probs_V: np.ndarray) -> float:
    """Returns how many standard deviations χ² is above its mean; rare tokens are taken together."""
    assert not counts_V[probs_V == 0].any(), "A token was drawn that cannot be."
    expected = probs_V * counts_V.sum()
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum())
    observed = np.append(counts_V[~rare], counts_V[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    degrees = max(len(expected) - 1, 1)
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float((statistic - degrees) / np.sqrt(2 * degrees))


def logits_like_a_models(seed: int, *, num_rows: int = 1, scale: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.gumbel(size=(num_rows, V)) * scale).astype(np.float32)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=3.0),
        SamplingParams(top_k=7),
        SamplingParams(top_p=0.7),
        SamplingParams(top_p=0.05),
        SamplingParams(min_p=0.1),
        SamplingParams(top_k=30, top_p=0.8, min_p=0.02, temperature=1.5),
        SamplingParams(top_k=12, top_p=0.5),
        SamplingParams(temperature=50.0, top_p=0.3),
    ],
    ids=lambda p: f"temperature {p.temperature}, top_k {p.top_k}, top_p {p.top_p}, min_p {p.min_p}",
)
def test_draws_have_the_distribution_of_the_reference(params: SamplingParams) -> None:
    logits_V = logits_like_a_models(1)[0]
    counts_V = drawn(logits_V, params, num_draws=4096)
    assert chi_square(counts_V, reference.distribution(logits_V, params)) < 4


def test_draws_of_successive_steps_have_the_distribution_and_are_independent() -> None:
    logits_V = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    logits_RV = np.full((4096, V), -np.inf, np.float32)
    logits_RV[:, :3] = logits_V
    params = [SamplingParams()] * 4096
    tokens = run(logits_RV, params, seeds=[77] * 4096, steps=range(4096))
    pairs = np.bincount(tokens[:-1] * 3 + tokens[1:], minlength=9)
    probs = np.exp(logits_V.astype(np.float64))
    assert chi_square(pairs, np.outer(probs, probs).ravel()) < 4


def test_a_greedy_row_takes_the_likeliest_token_and_of_equals_the_first() -> None:
    logits_RV = logits_like_a_models(2, num_rows=8)
    logits_RV[1] = 0
    logits_RV[2, [93, 41, 77]] = 50
    logits_RV[3, [0, 99]] = 50
    logits_RV[4] = -np.abs(logits_RV[4])
    logits_RV[5] = np.where(np.arange(V) % 2, 0.0, -0.0)
    greedy = [SamplingParams(temperature=0, top_k=5, top_p=0.1)] * 8
    for variant in (SamplerVariant(greedy=True), MOST_DRAWING):
        assert run(logits_RV, greedy, variant=variant).tolist() == logits_RV.argmax(-1).tolist()


def test_a_row_does_not_depend_on_its_neighbours_their_number_or_the_variant() -> None:
    logits_RV = logits_like_a_models(3, num_rows=24, scale=1.0)
    params = [
        SamplingParams(temperature=0.0 if i % 6 == 5 else 0.5 + i / 10, **MIXED[i % len(MIXED)])
        for i in range(24)
    ]
    seeds, steps = [1000 + i for i in range(24)], [3 * i for i in range(24)]
    together = run(logits_RV, params, seeds=seeds, steps=steps, variant=MOST_DRAWING)
    for order in (np.arange(24)[::-1], np.arange(7), np.arange(20, 24)):
        part = [params[i] for i in order]
        tokens = run(
            logits_RV[order],
            part,
            seeds=[seeds[i] for i in order],
            steps=[steps[i] for i in order],
            variant=MOST_DRAWING,
        )
        assert tokens.tolist() == together[order].tolist()
    for i in range(24):
        alone = run(
            logits_RV[i : i + 1], [params[i]], seeds=seeds[i : i + 1], steps=steps[i : i + 1]
        )
        assert alone[0] == together[i], params[i]


def test_other_seeds_and_steps_draw_other_tokens() -> None:
    logits_RV = np.zeros((256, V), np.float32)
    params = [SamplingParams()] * 256
    by_seed, by_step = run(logits_RV, params), run(
        logits_RV, params, seeds=[0] * 256, steps=range(256)
    )
    assert len(set(by_seed)) > 80 and len(set(by_step)) > 80
    assert (by_seed == by_step).mean() < 0.1
    assert (by_seed == run(logits_RV, params)).all()


ROWS = 128
drawn_logits = st.lists(
    st.one_of(
        st.sampled_from([-np.inf, -3.0, -1.0, 0.0, -0.0, 1.0, 2.0]),
        st.floats(-8, 8, width=32),
        st.floats(-1e4, 1e4, width=32),
    ),
    min_size=2,
    max_size=V,
).filter(lambda values: max(values) > -np.inf)
drawn_params = st.builds(
    SamplingParams,
    temperature=st.floats(0.25, 4.0),
    top_k=st.sampled_from([0, 1, 2, 3, 10, 99, 100, 1000]),
    top_p=st.sampled_from([1.0, 0.9999, 0.9, 0.5, 0.1, 1e-3, 1e-30]),
    min_p=st.sampled_from([0.0, 1e-4, 0.05, 0.3, 1.0]),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(values=drawn_logits, params=drawn_params)
def test_what_is_left_to_draw_from_is_what_the_reference_leaves(
    values: list[float], params: SamplingParams
) -> None:
    logits_V = np.full(V, -np.inf, np.float32)
    logits_V[: len(values)] = values
    probs_V = reference.distribution(logits_V.astype(np.float64), params)
    if reference.margin(logits_V.astype(np.float64), params) < 1e-5:
        return
    kept_V = np.asarray(SUPPORT(logits_V[None], SamplingRows.of([params], [0], [0], 1)))[0]
    # What is rarer than weights resolve is drawn from neither.
    resolved_V = probs_V > 1e-7 * probs_V.max()
    assert set(np.flatnonzero(resolved_V)) <= set(np.flatnonzero(kept_V))
    assert set(np.flatnonzero(kept_V)) & set(np.flatnonzero(np.isfinite(logits_V))) <= {
        *np.flatnonzero(probs_V),
        *np.flatnonzero(~resolved_V),
    }
    counts_V = drawn(logits_V, params, num_draws=ROWS)
    assert not counts_V[probs_V == 0].any()
    assert counts_V.sum() == ROWS and not counts_V[~kept_V].any()
    assert np.abs(counts_V / ROWS - probs_V).sum() / 2 < 0.5 * np.sqrt(len(values) / ROWS) + 0.2


@pytest.mark.parametrize("num_tied", [2, 60, 300])
@pytest.mark.parametrize("top_k", [1, 5, 50, 135, 136, 200])
def test_top_k_keeps_exactly_k_of_ties_the_first(top_k: int, num_tied: int) -> None:
    rng = np.random.default_rng(top_k * num_tied)
    logits_V = np.round(rng.normal(size=400) * 3).astype(np.float32)
    logits_V[rng.choice(400, num_tied, replace=False)] = 1
    rows = SamplingRows.of([SamplingParams(top_k=top_k)], [0], [0], 1)
    kept_V = np.asarray(SUPPORT(logits_V[None], rows))[0]
    order = np.lexsort((np.arange(400), -logits_V))
    assert np.flatnonzero(kept_V).tolist() == sorted(order[:top_k])


def test_penalties_biases_and_masks_are_those_of_the_reference() -> None:
    logits_RV = logits_like_a_models(4, num_rows=16)
    rng = np.random.default_rng(5)
    params, histories = [], []
    for i in range(16):
        bias = tuple(
            (int(v), float(b)) for v, b in zip(rng.choice(V, 3, False), rng.normal(size=3))
        )
        params.append(
            SamplingParams(
                temperature=0.0,
                presence_penalty=float(rng.uniform(-2, 2)) * (i % 2),
                frequency_penalty=float(rng.uniform(-2, 2)) * (i % 3 > 0),
                repetition_penalty=float(rng.uniform(0.5, 2)) if i % 4 else 1.0,
                logit_bias=bias,
                logprobs=20,
            )
        )
        histories.append((rng.choice(V, 6), rng.choice(V, 30), rng.choice(V, 4), rng.choice(V, 50)))
    inputs = edits_of(params, histories)
    rows = SamplingRows.of(params, range(16), [0] * 16, 16)
    edited_RV = np.asarray(EDITED(logits_RV, rows, MOST, **inputs))
    for i, (prompt, generated, banned, allowed) in enumerate(histories):
        options = {"prompt": prompt, "generated": generated, "banned": banned, "allowed": allowed}
        expected_V = reference.edited(logits_RV[i], params[i], **options)
        np.testing.assert_allclose(edited_RV[i], expected_V, rtol=1e-6, atol=1e-6)
    tokens = run(logits_RV, params, variant=MOST, **inputs)
    assert tokens.tolist() == edited_RV.argmax(-1).tolist()


def test_a_banned_or_masked_token_is_never_drawn() -> None:
    logits_RV = np.zeros((2048, V), np.float32)
    logits_RV[:, 10] = 5
    allowed = [3, 4, 10, 64, 99]
    allowed_RW = np.broadcast_to(mask_words(allowed), (2048, 4))
    bias = (np.tile(np.int32([[10, 4, V, V + 7]]), (2048, 1)), np.float32([[-np.inf] * 4] * 2048))
    options = {"variant": SamplerVariant(edits=True), "allowed_RW": allowed_RW, "bias": bias}
    counts_V = np.bincount(run(logits_RV, [SamplingParams()] * 2048, **options), minlength=V)
    assert set(np.flatnonzero(counts_V)) == {3, 64, 99}


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf])
def test_a_row_that_is_not_finite_fails_alone(value: float, greedy: bool) -> None:
    params = [SamplingParams(temperature=0.0 if greedy else 1.0, logprobs=20)] * 6
    logits_RV = logits_like_a_models(6, num_rows=6)
    whole = run(logits_RV, params)
    for place in (0, 50, 99):
        broken_RV = logits_RV.copy()
        broken_RV[2, place] = value
        expected = whole.copy()
        expected[2] = -1
        assert run(broken_RV, params).tolist() == expected.tolist()
        everything_RW = np.full((6, 4), 0xFFFFFFFF, np.uint32)
        everything_RW[2, place // 32] = 0
        options = {
            "variant": dataclasses.replace(MOST, penalizes=False),
            "allowed_RW": everything_RW,
        }
        assert run(broken_RV, params, **options)[2] in ([-1] if np.isnan(value) else range(V))


def test_a_row_of_which_nothing_is_allowed_fails() -> None:
    options = {"variant": SamplerVariant(edits=True), "allowed_RW": np.zeros((1, 4), np.uint32)}
    assert run(np.zeros((1, V), np.float32), [SamplingParams()], **options).tolist() == [-1]


def test_log_probabilities_are_those_of_the_models_own_logits() -> None:
    logits_RV = logits_like_a_models(7, num_rows=12)
    params = [SamplingParams(temperature=2.0, top_k=50, logprobs=i % 4 or None) for i in range(12)]
    params[3] = dataclasses.replace(params[3], logprobs=0)
    params[4] = dataclasses.replace(params[4], logprobs=20)
    rows = SamplingRows.of(params, range(12), [0] * 12, 12)
    variant = variant_for(params, False)
    sampled = RUN(logits_RV, rows, variant=variant)
    tokens, logprobs = unpack(np.asarray(sampled.packed_RX), variant, [p.logprobs for p in params])
    expected_RV = np.asarray(jax.nn.log_softmax(logits_RV.astype(np.float64)))
    assert tokens.tolist() == np.asarray(sampled.token_R).tolist()
    for token, got, expected_V, one in zip(tokens, logprobs, expected_RV, params, strict=True):
        if one.logprobs is None:
            assert got is None
            continue
        order = np.argsort(-expected_V, kind="stable")
        assert got is not None and got.token_id == token
        assert got.logprob == pytest.approx(expected_V[token], abs=2e-6)
        assert got.rank == 1 + order.tolist().index(token)
        assert [i for i, _ in got.top] == order[: one.logprobs].tolist()
        assert [p for _, p in got.top] == pytest.approx(expected_V[order[: one.logprobs]], abs=2e-6)


def test_a_vocabulary_of_fewer_tokens_than_alternatives_reports_what_there_is() -> None:
    params = [SamplingParams(temperature=0, logprobs=20)]
    variant = variant_for(params, False)
    sampled = RUN(np.arange(7.0)[None], SamplingRows.of(params, [0], [0], 1), variant=variant)
    (got,) = unpack(np.asarray(sampled.packed_RX), variant)[1]
    assert got is not None and [i for i, _ in got.top] == [6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_logits_are_sampled_as_their_float32_values(dtype: Any) -> None:
    logits_RV = jnp.asarray(logits_like_a_models(8, num_rows=64)).astype(dtype)
    params = [SamplingParams(top_p=0.9, top_k=20)] * 64
    assert run(logits_RV, params).tolist() == run(logits_RV.astype(jnp.float32), params).tolist()


def test_the_variant_is_the_least_that_does() -> None:
    greedy = SamplingParams(temperature=0, top_k=3)
    assert variant_for([greedy], False) == SamplerVariant(greedy=True)
    assert variant_for([greedy, SamplingParams()], False) == SamplerVariant()
    assert variant_for([SamplingParams(min_p=0.1)], True) == SamplerVariant(
        truncates=True, edits=True
    )
    assert variant_for([SamplingParams(min_tokens=1)], False).edits
    assert variant_for([SamplingParams(repetition_penalty=1.1)], False).penalizes
    assert variant_for([greedy, SamplingParams(logprobs=0)], False).num_logprobs == 0
    assert variant_for([greedy, SamplingParams(logprobs=1)], False).num_logprobs == 20


def test_rows_after_the_last_are_greedy_and_seeds_of_any_size_do() -> None:
    rows = SamplingRows.of([SamplingParams(top_k=3)], [-1], [5], 4)
    assert rows.temperature.tolist() == [1, 0, 0, 0] and rows.top_p.tolist() == [1] * 4
    assert rows.seed.tolist() == [2**32 - 1, 0, 0, 0] and rows.step.tolist() == [5, 0, 0, 0]
    assert len(jax.tree.leaves(rows)) == 9
