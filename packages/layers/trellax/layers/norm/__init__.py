"""Normalisation over the model dim."""

from trellax.layers.norm.layer_norm import LayerNorm
from trellax.layers.norm.rms_norm import RMSNorm

__all__ = ["LayerNorm", "RMSNorm"]
