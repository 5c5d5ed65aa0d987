"""Transformer layers: how attention and feed-forward join the residual stream."""

from trellax.layers.transformer.layer import (
    BaseTransformerLayer,
    ParallelTransformerLayer,
    TransformerLayer,
)

__all__ = ["BaseTransformerLayer", "ParallelTransformerLayer", "TransformerLayer"]
