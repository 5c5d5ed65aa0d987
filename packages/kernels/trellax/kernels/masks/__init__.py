"""Symbolic attention masks.

mask = CausalMask() & SegmentMask()
"""

from trellax.kernels.masks.mask import (
    AllOf,
    CausalMask,
    FullMask,
    Mask,
    SegmentMask,
    SlidingWindowMask,
)

__all__ = ["AllOf", "CausalMask", "FullMask", "Mask", "SegmentMask", "SlidingWindowMask"]
