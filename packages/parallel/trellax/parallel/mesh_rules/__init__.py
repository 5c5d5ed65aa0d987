"""What an experiment changes on which hardware.

from trellax.parallel.mesh_rules import MeshRule, apply_mesh_rule, select_mesh_rule
"""

from trellax.parallel.mesh_rules.modifiers import (
    AccumulationModifier,
    AxisRulesModifier,
    DTypeModifier,
    MeshShapeModifier,
    RematModifier,
)
from trellax.parallel.mesh_rules.rule import MeshRule, apply_mesh_rule, select_mesh_rule

__all__ = [
    "AccumulationModifier",
    "AxisRulesModifier",
    "DTypeModifier",
    "MeshRule",
    "MeshShapeModifier",
    "RematModifier",
    "apply_mesh_rule",
    "select_mesh_rule",
]
