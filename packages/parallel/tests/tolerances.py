"""How far results of two placements may differ, by type: sums are taken in another order."""

TOLERANCE = {
    "float32": {"rtol": 2e-5, "atol": 2e-6},
    "bfloat16": {"rtol": 2e-2, "atol": 2e-2},
}
