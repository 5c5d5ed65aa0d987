"""Matrix products of row groups with one matrix a group, as in mixtures of experts.

out_MN = grouped_matmul(lhs_MK, rhs_GKN, group_sizes_G)
"""

from trellax.kernels.grouped_matmul.api import IMPLEMENTATIONS, explain, grouped_matmul

__all__ = ["IMPLEMENTATIONS", "explain", "grouped_matmul"]
