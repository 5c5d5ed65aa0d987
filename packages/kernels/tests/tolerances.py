"""The one table of tolerances of this package's tests: largest error relative to the largest value."""

from __future__ import annotations

from typing import Any

import numpy as np

RELATIVE = {"float32": 2e-6, "bfloat16": 2e-2}
RELATIVE_GRADIENT = {"float32": 1e-5, "bfloat16": 4e-2}


def assert_close(
    actual: Any, expected: Any, *, dtype: str = "float32", gradient: bool = False
) -> None:
    """Asserts that arrays agree within the table, relative to the largest expected magnitude."""
    actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    allowed = (RELATIVE_GRADIENT if gradient else RELATIVE)[dtype]
    error = np.abs(actual - expected).max(initial=0.0)
    assert error <= allowed * max(np.abs(expected).max(initial=0.0), 1e-3), error
