"""Stacks of layers: repeated ones (scanned, unrolled or pipelined) and sequences of different ones."""

from trellax.layers.stack.base import Stack, resumed
from trellax.layers.stack.pipelined import PipelinedStack
from trellax.layers.stack.repeated import RepeatedStack, ScannedStack, UnrolledStack
from trellax.layers.stack.sequential import SequentialStack
from trellax.layers.stack.stages import bubble_fraction

__all__ = [
    "PipelinedStack",
    "RepeatedStack",
    "ScannedStack",
    "SequentialStack",
    "Stack",
    "UnrolledStack",
    "bubble_fraction",
    "resumed",
]
