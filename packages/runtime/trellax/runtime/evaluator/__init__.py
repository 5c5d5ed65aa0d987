"""Evaluation on held-out data."""

from trellax.runtime.evaluator.evaluator import Evaluator

__all__ = ["Evaluator"]
