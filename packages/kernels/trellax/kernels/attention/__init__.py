"""Scaled dot-product attention for training, prefill and contiguous decoding.

out_BSNH = attention(q_BSNH, k_BTKH, v_BTKH, mask=CausalMask())

Where rows are longer than a device should hold, `ring_attention`, `all_gather_attention` and `ulysses_attention` are the same
operation on blocks of a row, called inside `jax.shard_map`.
"""

from trellax.kernels.attention.all_gather import all_gather_attention
from trellax.kernels.attention.api import IMPLEMENTATIONS, attention, explain
from trellax.kernels.attention.bias import AlibiBias, ScoreBias
from trellax.kernels.attention.ring import ring_attention
from trellax.kernels.attention.ulysses import ulysses_attention

__all__ = [
    "IMPLEMENTATIONS",
    "AlibiBias",
    "ScoreBias",
    "all_gather_attention",
    "attention",
    "explain",
    "ring_attention",
    "ulysses_attention",
]
