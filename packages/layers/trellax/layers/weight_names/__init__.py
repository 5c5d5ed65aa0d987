"""How other people's files name and arrange the parameters of our models: maps that go both ways.

for tensor in weight_map("llama").bind(model.all_parameter_specs()):
    print(tensor.name, tensor.shape, "is", tensor.path, tensor.index)
"""

from trellax.layers.weight_names.families import FAMILIES, Family, Form, weight_map
from trellax.layers.weight_names.maps import (
    BoundTensor,
    Entry,
    WeightMap,
    parameter_leaves,
    parameter_shapes,
    parameter_tree,
)
from trellax.layers.weight_names.pattern import BoundPattern, ShapePattern

__all__ = [
    "FAMILIES",
    "BoundPattern",
    "BoundTensor",
    "Entry",
    "Family",
    "Form",
    "ShapePattern",
    "WeightMap",
    "parameter_leaves",
    "parameter_shapes",
    "parameter_tree",
    "weight_map",
]
