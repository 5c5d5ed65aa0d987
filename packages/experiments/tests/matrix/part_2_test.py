"""Part 2 of 4 of the matrix: each combination takes the same step as one device."""

from tests.matrix.suite import equality_test

test_one_step_equals_that_of_one_device = equality_test(1)
