"""Layers with parameters: `BaseLayer`, `ParameterSpec` and initializers."""

from trellax.layers.base.initializers import (
    ConstantInitializer,
    Initializer,
    NormalInitializer,
    VarianceScalingInitializer,
)
from trellax.layers.base.layer import BaseLayer
from trellax.layers.base.specs import ParameterSpec, count_parameters, is_spec

__all__ = [
    "BaseLayer",
    "ConstantInitializer",
    "Initializer",
    "NormalInitializer",
    "ParameterSpec",
    "VarianceScalingInitializer",
    "count_parameters",
    "is_spec",
]
