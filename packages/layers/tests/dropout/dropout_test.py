"""Dropout drops at its rate and keeps the mean, in training only."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from tests.calls import built, called, draws
from trellax.config import ConfigError
from trellax.layers.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_elements_are_dropped_or_scaled(rate: float):
    layer, _ = built(Dropout.default_config().set(rate=rate))
    y, _ = called(layer, {}, jnp.ones((100, 200)), training=True)
    np.testing.assert_allclose(np.mean(y == 0.0), rate, atol=0.01)
    np.testing.assert_allclose(np.unique(y), [0.0, 1.0 / (1.0 - rate)], rtol=1e-6)


def test_nothing_happens_outside_of_training_or_at_rate_0():
    x = draws(1, 3, 4)
    layer, _ = built(Dropout.default_config().set(rate=0.5))
    assert called(layer, {}, x, seed=None)[0] is x
    layer, _ = built(Dropout.default_config())
    assert called(layer, {}, x, seed=None, training=True)[0] is x


def test_the_key_decides():
    layer, _ = built(Dropout.default_config().set(rate=0.5))
    once, again, other = (
        called(layer, {}, jnp.ones(100), seed=seed, training=True)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_that_are_no_probabilities_below_1_are_refused(rate: float):
    with pytest.raises(ConfigError, match="is not a probability below 1"):
        built(Dropout.default_config().set(rate=rate))
