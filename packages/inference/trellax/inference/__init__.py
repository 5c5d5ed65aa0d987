"""Serving what was trained, with the training modules themselves.

from trellax.inference import Generator, Sampling
"""

from trellax.inference.generation import Generator, Sampling

__all__ = ["Generator", "Sampling"]
