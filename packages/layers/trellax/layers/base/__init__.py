"""Layers with parameters: `BaseLayer`, `ParameterSpec` and initializers."""

from trellax.layers.base.initializers import (
    ConstantInitializer,
    Initializer,
    NormalInitializer,
    VarianceScalingInitializer,
)
from trellax.layers.base.layer import BaseLayer, Prepare
from trellax.layers.base.specs import ParameterSpec, count_parameters, is_spec
from trellax.layers.base.state import PagePool, StateAxis, is_state_axis

__all__ = [
    "BaseLayer",
    "ConstantInitializer",
    "Initializer",
    "NormalInitializer",
    "PagePool",
    "ParameterSpec",
    "Prepare",
    "StateAxis",
    "VarianceScalingInitializer",
    "count_parameters",
    "is_spec",
    "is_state_axis",
]
