"""Cross-entropy of a language model's head, without keeping its logits.

sums = cross_entropy(hidden_ND, unembedding_DV, targets_N)
"""

from trellax.kernels.cross_entropy.api import IMPLEMENTATIONS, cross_entropy, explain
from trellax.kernels.cross_entropy.call import CrossEntropySums

__all__ = ["IMPLEMENTATIONS", "CrossEntropySums", "cross_entropy", "explain"]
