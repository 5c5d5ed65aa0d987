"""Products of activations with a weight that was prepared once: rounded or quantized, and laid out for the kernel.

weight = prepare(weight_DF, format="int8")
out = matmul(x, weight)                                    # x [..., D] -> [..., F]
"""

from trellax.kernels.matmul.api import IMPLEMENTATIONS, explain, matmul
from trellax.kernels.matmul.prepared import PreparedWeight, prepare, take_rows, unprepare

__all__ = [
    "IMPLEMENTATIONS",
    "PreparedWeight",
    "explain",
    "matmul",
    "prepare",
    "take_rows",
    "unprepare",
]
