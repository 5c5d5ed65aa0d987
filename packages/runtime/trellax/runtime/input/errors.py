"""The error of everything that reads a user's data."""

from __future__ import annotations


class InputError(ValueError):
    """Data that cannot be used; names the file and the line or row, and how to mend it."""
