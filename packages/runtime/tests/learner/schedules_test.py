"""Schedules against their formulas."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellax.config import ConfigError, finalize
from trellax.runtime import (
    ConstantSchedule,
    CosineSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    WarmupStableDecaySchedule,
)


def value(component: Any, step: int, **fields: Any) -> float:
    cfg = component.default_config().set(peak=2.0, total_steps=100, **fields)
    return float(finalize(cfg).instantiate()(jnp.asarray(step)))


@pytest.mark.parametrize(
    ("component", "fields", "step", "expected"),
    [
        (ConstantSchedule, {}, 57, 2.0),
        (CosineSchedule, {"warmup_steps": 20, "final_fraction": 0.1}, 60, 2.0 * 0.55),
        (CosineSchedule, {"warmup_steps": 20, "final_fraction": 0.1}, 100, 0.2),
        (CosineSchedule, {"final_fraction": 0.0}, 25, 1.0 + math.cos(math.pi / 4)),
        (LinearSchedule, {"final_fraction": 0.0}, 25, 1.5),
        (InverseSqrtSchedule, {"warmup_steps": 25}, 100, 1.0),
        (WarmupStableDecaySchedule, {"decay_steps": 40}, 60, 2.0),
        (WarmupStableDecaySchedule, {"decay_steps": 40}, 80, 1.0),
    ],
)
def test_schedules_follow_their_formula(
    component: Any, fields: Any, step: int, expected: float
) -> None:
    np.testing.assert_allclose(value(component, step, **fields), expected, rtol=1e-5)


@given(warmup=st.integers(1, 100), step=st.integers(0, 99))
def test_warmup_rises_linearly_from_one_step_in(warmup: int, step: int) -> None:
    rate = value(ConstantSchedule, step, warmup_steps=warmup)
    np.testing.assert_allclose(rate, 2.0 * min((step + 1) / warmup, 1.0), rtol=1e-5)


def test_a_negative_warmup_is_refused() -> None:
    cfg = CosineSchedule.default_config().set(peak=1.0, total_steps=10, warmup_steps=-1)
    with pytest.raises(ConfigError, match="warmup_steps=-1"):
        finalize(cfg)
