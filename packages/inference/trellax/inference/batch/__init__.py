"""Requests of a file, answered into a file."""

from trellax.inference.batch.batch import BatchError, BatchResult, run_batch

__all__ = ["BatchError", "BatchResult", "run_batch"]
