"""Mixture of experts, a drop-in for the feed-forward layer."""

from trellax.layers.moe.experts import GroupedExperts
from trellax.layers.moe.moe import MoELayer
from trellax.layers.moe.router import Routing, TopKRouter

__all__ = ["GroupedExperts", "MoELayer", "Routing", "TopKRouter"]
