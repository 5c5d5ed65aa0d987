"""Stacks of layers: repeated ones (scanned or unrolled) and sequences of different ones."""

from trellax.layers.stack.repeated import RepeatedStack, ScannedStack, UnrolledStack
from trellax.layers.stack.sequential import SequentialStack

__all__ = ["RepeatedStack", "ScannedStack", "SequentialStack", "UnrolledStack"]
