"""Scaled dot-product attention for training, prefill and contiguous decoding.

out_BSNH = attention(q_BSNH, k_BTKH, v_BTKH, mask=CausalMask())
"""

from trellax.kernels.attention.api import IMPLEMENTATIONS, attention, explain
from trellax.kernels.attention.bias import AlibiBias, ScoreBias

__all__ = ["IMPLEMENTATIONS", "AlibiBias", "ScoreBias", "attention", "explain"]
