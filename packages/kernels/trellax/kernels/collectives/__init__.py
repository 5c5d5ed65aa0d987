"""Which collectives the platform has.

from trellax.kernels.collectives import ragged_all_to_all_refusal
"""

from trellax.kernels.collectives.support import ragged_all_to_all_refusal

__all__ = ["ragged_all_to_all_refusal"]
