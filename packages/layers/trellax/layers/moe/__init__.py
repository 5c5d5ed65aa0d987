"""Mixture of experts, a drop-in for the feed-forward layer: routers, dispatch over devices, experts.

from trellax.layers.moe import MoELayer, SigmoidRouter, CapacityDispatch
"""

from trellax.layers.moe.capacity import CapacityDispatch
from trellax.layers.moe.dispatch import Dispatch, Experts
from trellax.layers.moe.dropless import DroplessDispatch
from trellax.layers.moe.experts import GroupedExperts
from trellax.layers.moe.moe import MoELayer
from trellax.layers.moe.router import Router, Routing, SigmoidRouter, TopKRouter
from trellax.layers.moe.selection_bias import LoadBalancingBias, SelectionBias
from trellax.layers.moe.shared import GatedSharedExpert

__all__ = [
    "CapacityDispatch",
    "Dispatch",
    "DroplessDispatch",
    "Experts",
    "GatedSharedExpert",
    "GroupedExperts",
    "LoadBalancingBias",
    "MoELayer",
    "Router",
    "Routing",
    "SelectionBias",
    "SigmoidRouter",
    "TopKRouter",
]
