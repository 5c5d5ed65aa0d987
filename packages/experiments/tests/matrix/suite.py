"""The test that each file of the matrix runs on its part of the combinations, so that the build runs them side by side."""

from __future__ import annotations

from typing import Any

import pytest

from tests.matrix.combinations import Combination, combinations
from tests.matrix.one_step import assert_equal_steps, one_device, one_step

PARTS = 4


def equality_test(part: int) -> Any:
    """Returns a test of every `PARTS`-th combination, from the `part`-th on."""
    mine = combinations()[part::PARTS]

    @pytest.mark.parametrize("combination", mine, ids=lambda c: c.name)
    def test_one_step_equals_that_of_one_device(combination: Combination) -> None:
        expected = one_device(
            has_experts=combination.has_experts, in_parts=combination.is_pipelined
        )
        assert_equal_steps(one_step(combination), expected)

    return test_one_step_equals_that_of_one_device
