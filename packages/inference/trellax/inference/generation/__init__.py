"""Continuing prompts with a trained model."""

from trellax.inference.generation.generation import Generator, Sampling

__all__ = ["Generator", "Sampling"]
