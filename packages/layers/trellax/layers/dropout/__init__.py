"""Dropout."""

from trellax.layers.dropout.dropout import Dropout

__all__ = ["Dropout"]
