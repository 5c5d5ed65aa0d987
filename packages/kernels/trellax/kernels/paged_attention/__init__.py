"""Attention of queries on keys and values that lie in pages, for serving.

out_BSNH = paged_attention(q_BSNH, key_pages, value_pages, block_table_BP, positions_BS, lengths_B, mask=CausalMask())
"""

from trellax.kernels.paged_attention.api import IMPLEMENTATIONS, explain, paged_attention

__all__ = ["IMPLEMENTATIONS", "explain", "paged_attention"]
