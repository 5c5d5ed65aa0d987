"""How far results may lie from a reference, by type, for values of order one."""

TOLERANCE = {
    "float32": {"rtol": 2e-5, "atol": 2e-5},
    "bfloat16": {"rtol": 3e-2, "atol": 3e-2},
}
