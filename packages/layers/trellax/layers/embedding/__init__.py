"""Vectors of tokens and of absolute positions."""

from trellax.layers.embedding.embedding import Embedding, Unembedding
from trellax.layers.embedding.positions import LearnedPositionEmbedding, SinusoidalPositionEmbedding

__all__ = ["Embedding", "LearnedPositionEmbedding", "SinusoidalPositionEmbedding", "Unembedding"]
