"""Speculation changes how fast tokens come, not which. Axes: R rows, K drafts, Q = K + 1 positions, V vocabulary."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from tests.sampling import reference
from tests.sampling.sample_test import chi_square, mask_words
from trellax.inference.requests import SamplingParams
from trellax.inference.sampling import (
    SamplerVariant,
    SamplingRows,
    sample,
    unpack,
    unpack_verified,
    variant_for,
    verify,
)

R, V, K, Q = 40, 100, 3, 4
VARIANT = SamplerVariant(truncates=True, num_logprobs=20)
SAMPLE = jax.jit(sample, static_argnames="variant")
VERIFY = jax.jit(verify, static_argnames="variant")
PARAMS = [
    SamplingParams(temperature=0.0),
    SamplingParams(),
    SamplingParams(temperature=0.7, top_p=0.8),
    SamplingParams(top_k=5, min_p=0.01),
    SamplingParams(temperature=1.5, top_k=20, top_p=0.6, min_p=0.05),
]


def logits_of(seed: int, *shape: int) -> np.ndarray:
    """Returns few likely tokens, so that drafts are accepted."""
    logits = np.random.default_rng(seed).gumbel(size=(*shape, V)).astype(np.float32)
    logits[..., :4] += 4
    return logits


def probabilities(logits: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(logits, axis=-1))


def one_by_one(logits_RQV: np.ndarray, rows: SamplingRows) -> np.ndarray:
    """Returns what `sample` draws at each position, as if each were the next step."""
    tokens = []
    for q in range(Q):
        at = dataclasses.replace(rows, step=rows.step + q)
        tokens.append(np.asarray(SAMPLE(logits_RQV[:, q], at, variant=VARIANT).token_R))
    return np.stack(tokens, axis=1)


@pytest.mark.parametrize("with_draft_probs", [False, True])
def test_a_row_without_drafts_gets_what_sample_gives_it(with_draft_probs: bool) -> None:
    params = [PARAMS[i % 5] for i in range(R)]
    rows = SamplingRows.of(params, range(R), range(R), R)
    logits_RQV = logits_of(1, R, Q)
    probs = probabilities(logits_of(2, R, K)) if with_draft_probs else None
    drafts_RK = np.zeros((R, K), np.int32)
    got = VERIFY(
        logits_RQV, drafts_RK, np.zeros(R, np.int32), rows, variant=VARIANT, draft_probs_RKV=probs
    )
    expected = SAMPLE(logits_RQV[:, 0], rows, variant=VARIANT)
    assert not np.asarray(got.num_accepted_R).any()
    assert np.asarray(got.tokens_RQ)[:, 0].tolist() == np.asarray(expected.token_R).tolist()
    assert (np.asarray(got.tokens_RQ)[:, 1:] == -1).all()
    tokens, logprobs = unpack_verified(np.asarray(got.packed_RX), VARIANT)
    expected_tokens, expected_logprobs = unpack(np.asarray(expected.packed_RX), VARIANT)
    assert tokens == [[token] for token in expected_tokens]
    for (one,), other in zip(logprobs, expected_logprobs, strict=True):
        assert (one.token_id, one.rank) == (other.token_id, other.rank)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-6)
        assert [i for i, _ in one.top] == [i for i, _ in other.top]


def test_certain_drafts_give_the_very_tokens_that_come_without() -> None:
    params = [PARAMS[i % 5] for i in range(R)]
    lengths = []
    for seed in range(5):
        rows = SamplingRows.of(params, range(R), [7 * seed] * R, R)
        logits_RQV = logits_of(seed, R, Q)
        expected_RQ = one_by_one(logits_RQV, rows)
        rng = np.random.default_rng(seed)
        drafts_RK = np.where(rng.random((R, K)) < 0.8, expected_RQ[:, :K], 9).astype(np.int32)
        num_drafts_R = rng.integers(0, K + 1, R).astype(np.int32)
        got = VERIFY(logits_RQV, drafts_RK, num_drafts_R, rows, variant=VARIANT)
        for i in range(R):
            n = 0
            while n < num_drafts_R[i] and drafts_RK[i, n] == expected_RQ[i, n]:
                n += 1
            lengths.append(n)
            assert int(got.num_accepted_R[i]) == n
            expected = [*expected_RQ[i, : n + 1], *[-1] * (K - n)]
            assert np.asarray(got.tokens_RQ)[i].tolist() == expected
        num_top = [None, 0, 3] * (R // 3)
        tokens, logprobs = unpack_verified(np.asarray(got.packed_RX), VARIANT, num_top)
        assert [len(t) for t in tokens] == [1 + int(n) for n in got.num_accepted_R]
        assert all(one is None for one in logprobs[::3]) and logprobs[-1] is None
        assert [one.token_id for one in logprobs[2]] == tokens[2]
        assert {len(one.top) for one in logprobs[2]} == {3}
    assert set(lengths) == {0, 1, 2, 3}


def test_a_certain_draft_is_accepted_as_often_as_the_model_says() -> None:
    R = 4096
    logits_V = logits_of(5)
    probs_V = reference.distribution(logits_V, PARAMS[2])
    draft = int(np.argsort(-probs_V)[1])
    logits_RQV = np.broadcast_to(logits_V, (R, 2, V))
    rows = SamplingRows.of([PARAMS[2]] * R, range(R), [0] * R, R)
    drafts_R1 = np.full((R, 1), draft, np.int32)
    got = VERIFY(
        logits_RQV, drafts_R1, np.ones(R, np.int32), rows, variant=SamplerVariant(truncates=True)
    )
    share = float(np.mean(got.num_accepted_R))
    assert abs(share - probs_V[draft]) < 4 * np.sqrt(0.25 / R)


@pytest.mark.parametrize("params", PARAMS[1:], ids=range(1, len(PARAMS)))
def test_drafts_of_a_model_leave_the_distribution_as_it_is(params: SamplingParams) -> None:
    R = 4096
    logits_QV = logits_of(6, 2)
    # The draft model is like the model; it may draw what the model's top_p leaves out.
    draft_probs_V = probabilities(logits_QV[0] + np.random.default_rng(7).normal(size=V) * 0.7)
    drafts_R1 = np.random.default_rng(8).choice(V, (R, 1), p=draft_probs_V / draft_probs_V.sum())
    rows = SamplingRows.of([params] * R, range(R), [0] * R, R)
    got = VERIFY(
        np.broadcast_to(logits_QV, (R, 2, V)),
        drafts_R1.astype(np.int32),
        np.ones(R, np.int32),
        rows,
        variant=variant_for([params], False),
        draft_probs_RKV=np.broadcast_to(draft_probs_V.astype(np.float32), (R, 1, V)),
    )
    tokens_RQ, accepted_R = np.asarray(got.tokens_RQ), np.asarray(got.num_accepted_R)
    first_V, second_V = (reference.distribution(logits_V, params) for logits_V in logits_QV)
    assert chi_square(np.bincount(tokens_RQ[:, 0], minlength=V), first_V) < 4
    after = tokens_RQ[accepted_R == 1]
    assert chi_square(np.bincount(after[:, 1], minlength=V), second_V) < 4
    # The most that any way to accept can reach (2211.17192, corollary 3.6).
    expected = np.minimum(first_V, draft_probs_V).sum()
    assert abs(accepted_R.mean() - expected) < 4 * np.sqrt(0.25 / R)
    assert 0.3 < expected < 0.95


def test_greedy_rows_accept_what_is_likeliest_whatever_the_draft_model_says() -> None:
    logits_RQV = logits_of(9, R, Q)
    best_RQ = logits_RQV.argmax(-1)
    drafts_RK = best_RQ[:, :K].astype(np.int32)
    drafts_RK[::2, 1] = (drafts_RK[::2, 1] + 1) % V
    num_drafts_R = np.full(R, K, np.int32)
    params = [SamplingParams(temperature=0.0)] * R
    rows = SamplingRows.of(params, range(R), [0] * R, R)
    probs_RKV = probabilities(logits_of(10, R, K))
    for variant in (SamplerVariant(greedy=True), VARIANT):
        for probs in (None, probs_RKV):
            got = VERIFY(
                logits_RQV, drafts_RK, num_drafts_R, rows, variant=variant, draft_probs_RKV=probs
            )
            expected_R = np.where(np.arange(R) % 2, K, 1)
            assert np.asarray(got.num_accepted_R).tolist() == expected_R.tolist()
            within = np.arange(Q) <= expected_R[:, None]
            assert (np.asarray(got.tokens_RQ) == np.where(within, best_RQ, -1)).all()


def test_positions_see_penalties_of_the_drafts_before_them_and_their_own_edits() -> None:
    rng = np.random.default_rng(11)
    params = [
        SamplingParams(
            temperature=float(i % 2),
            frequency_penalty=1.5,
            presence_penalty=0.5,
            repetition_penalty=1.3,
        )
        for i in range(R)
    ]
    variant = dataclasses.replace(variant_for(params, True), truncates=True)
    rows = SamplingRows.of(params, range(R), [0] * R, R)
    logits_RQV = logits_of(12, R, Q)
    drafts_RK = rng.integers(0, 4, (R, K)).astype(np.int32)
    counts_RV = rng.integers(0, 2, (R, V)).astype(np.int32)
    prompt_RV = rng.random((R, V)) < 0.3
    allowed = [[rng.choice(V, 60, False) for _ in range(Q)] for _ in range(R)]
    allowed_RQW = np.stack([[mask_words([*a, 0, 1, 2, 3]) for a in row] for row in allowed])
    bias = (
        rng.integers(0, V, (R, Q, 2)).astype(np.int32),
        rng.choice([2.0, -np.inf], (R, Q, 2)).astype(np.float32),
    )
    got = VERIFY(
        logits_RQV,
        drafts_RK,
        np.full(R, K, np.int32),
        rows,
        variant=variant,
        counts_RV=counts_RV,
        prompt_RV=prompt_RV,
        bias=bias,
        allowed_RQW=allowed_RQW,
    )
    counts_RQV = np.repeat(counts_RV[:, None], Q, axis=1)
    for i in range(R):
        for k in range(K):
            counts_RQV[i, k + 1 :, drafts_RK[i, k]] += 1
    expected = []
    for q in range(Q):
        at = dataclasses.replace(rows, step=rows.step + q)
        edits = {
            "counts_RV": counts_RQV[:, q],
            "prompt_RV": prompt_RV,
            "allowed_RW": allowed_RQW[:, q],
        }
        edits["bias"] = (bias[0][:, q], bias[1][:, q])
        expected.append(np.asarray(SAMPLE(logits_RQV[:, q], at, variant=variant, **edits).token_R))
    expected_RQ = np.stack(expected, axis=1)
    leading_R = np.cumprod(expected_RQ[:, :K] == drafts_RK, axis=1).sum(axis=1)
    assert np.asarray(got.num_accepted_R).tolist() == leading_R.tolist()
    assert leading_R.max() >= 2
    within = np.arange(Q) <= leading_R[:, None]
    assert (np.asarray(got.tokens_RQ) == np.where(within, expected_RQ, -1)).all()


@pytest.mark.parametrize("with_draft_probs", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_end_the_row_there(
    temperature: float, with_draft_probs: bool
) -> None:
    params = [SamplingParams(temperature=temperature)] * R
    rows = SamplingRows.of(params, range(R), [0] * R, R)
    logits_RQV = np.full((R, Q, V), -50, np.float32)
    logits_RQV[:, :, 7] = 50
    broken_RQV = logits_RQV.copy()
    broken_RQV[3, 2, 11] = np.nan
    drafts_RK = np.full((R, K), 7, np.int32)
    probs = probabilities(logits_RQV[:, :K]) if with_draft_probs else None
    got = VERIFY(
        broken_RQV,
        drafts_RK,
        np.full(R, K, np.int32),
        rows,
        variant=VARIANT,
        draft_probs_RKV=probs,
    )
    expected_RQ = np.full((R, Q), 7)
    expected_RQ[3] = [7, 7, -1, -1]
    assert np.asarray(got.tokens_RQ).tolist() == expected_RQ.tolist()
    assert np.asarray(got.num_accepted_R).tolist() == [3, 3, 3, 2, *[3] * (R - 4)]
