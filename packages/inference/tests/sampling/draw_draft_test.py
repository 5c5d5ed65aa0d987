"""Drafts are drawn from the distribution that is told with them. Axes: R rows, V vocabulary."""

from __future__ import annotations

import jax
import numpy as np

from tests.sampling import reference
from tests.sampling.sample_test import chi_square
from tests.sampling.verify_test import PARAMS, logits_of
from trellax.inference.sampling import SamplerVariant, SamplingRows, draw_draft, sample

VARIANT = SamplerVariant(truncates=True)
DRAW_DRAFT = jax.jit(draw_draft, static_argnames="variant")
R = 1024


def test_a_draft_comes_with_the_distribution_that_it_was_drawn_from() -> None:
    logits_V = logits_of(1)
    params = [p for p in PARAMS[1:] for _ in range(R)]
    rows = SamplingRows.of(params, range(len(params)), [3] * len(params), len(params))
    logits_RV = np.broadcast_to(logits_V, (len(params), len(logits_V)))
    drafts, probs = map(np.asarray, DRAW_DRAFT(logits_RV, rows, variant=VARIANT))
    for index, one in enumerate(PARAMS[1:]):
        expected_V = reference.distribution(logits_V, one)
        np.testing.assert_allclose(probs[index * R], expected_V, atol=2e-6)
        drawn = drafts[index * R : (index + 1) * R]
        assert chi_square(np.bincount(drawn, minlength=len(logits_V)), expected_V) < 4


def test_a_draft_with_the_seed_of_a_token_is_that_token_if_the_models_agree() -> None:
    params = [PARAMS[i % len(PARAMS)] for i in range(R)]
    rows = SamplingRows.of(params, range(R), range(R), R)
    logits_RV = logits_of(2, R)
    drafts, _ = DRAW_DRAFT(logits_RV, rows, variant=VARIANT)
    tokens = jax.jit(sample, static_argnames="variant")(logits_RV, rows, variant=VARIANT).token_R
    assert np.asarray(drafts).tolist() == np.asarray(tokens).tolist()
