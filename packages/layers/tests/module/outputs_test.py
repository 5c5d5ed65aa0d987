"""What calls leave behind is put together by its own rules."""

from __future__ import annotations

import jax.numpy as jnp

from tests.calls import assert_trees_equal
from trellax.layers.module import WeightedScalar, averaged_summaries, averaged_updates


def test_summaries_of_microbatches_weigh_by_their_own_weights_or_count_alike():
    summaries = {
        "loss": WeightedScalar(jnp.array([2.0, 6.0, 9.0]), jnp.array([3.0, 1.0, 0.0])),
        "child": {"norm": jnp.array([[1.0, 2.0], [3.0, 6.0], [5.0, 1.0]])},
        "unused": WeightedScalar(jnp.array([5.0, 7.0]), jnp.zeros(2)),
    }
    expected = {
        "loss": WeightedScalar(jnp.array(3.0), jnp.array(4.0)),
        "child": {"norm": jnp.array([3.0, 3.0])},
        "unused": WeightedScalar(jnp.array(0.0), jnp.array(0.0)),
    }
    assert_trees_equal(averaged_summaries(summaries), expected)


def test_updates_of_microbatches_are_averaged_or_the_last_one_counts():
    updates = {
        "bias": jnp.array([[1.0, 4.0], [3.0, 0.0]]),
        "child": {"count": jnp.array([3, 8])},
    }
    expected = {"bias": jnp.array([2.0, 2.0]), "child": {"count": jnp.array(8)}}
    assert_trees_equal(averaged_updates(updates), expected)
