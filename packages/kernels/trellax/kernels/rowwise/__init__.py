"""Operations on each row of a batch by itself, which on CPUs take longer than they should when XLA compiles them.

y = rms_norm(x, scale, eps=1e-5)
y = silu_product(gate, up)
"""

from trellax.kernels.rowwise.api import IMPLEMENTATIONS, explain, rms_norm, silu_product

__all__ = ["IMPLEMENTATIONS", "explain", "rms_norm", "silu_product"]
