"""One program on any hardware: meshes, sharding rules, remat policies and mesh rules, all as data.

    from trellax.parallel import MeshShape, build_mesh, fsdp_tensor_rules, sharding_scope

Importing it starts no backend and does not import jax: plans are made and read without devices.
"""

from trellax.parallel.hardware import (
    Chip,
    Hardware,
    chip_named,
    detect_hardware,
    hardware_named,
    known_chips,
    peak_flops,
)
from trellax.parallel.mesh import MESH_AXES, AxisSizes, MeshShape, build_mesh
from trellax.parallel.remat import (
    RematPolicy,
    dots_saveable,
    nothing_saveable,
    offload_names,
    save_names,
    tag,
    tagged_names,
)
from trellax.parallel.sharding import (
    ACTIVATION_AXES,
    PARAMETER_AXES,
    ArraySpec,
    LogicalAxes,
    LogicalAxisRules,
    OmittedAxis,
    ShardingScope,
    SpecReport,
    constrain,
    current_scope,
    explain_shardings,
    fsdp_rules,
    fsdp_tensor_rules,
    named_sharding,
    replicated_rules,
    sharding_scope,
    shardings_for,
)

__all__ = [
    "ACTIVATION_AXES",
    "MESH_AXES",
    "PARAMETER_AXES",
    "ArraySpec",
    "AxisSizes",
    "Chip",
    "Hardware",
    "LogicalAxes",
    "LogicalAxisRules",
    "MeshShape",
    "OmittedAxis",
    "RematPolicy",
    "ShardingScope",
    "SpecReport",
    "build_mesh",
    "chip_named",
    "constrain",
    "current_scope",
    "detect_hardware",
    "dots_saveable",
    "explain_shardings",
    "fsdp_rules",
    "fsdp_tensor_rules",
    "hardware_named",
    "known_chips",
    "named_sharding",
    "nothing_saveable",
    "offload_names",
    "peak_flops",
    "replicated_rules",
    "save_names",
    "sharding_scope",
    "shardings_for",
    "tag",
    "tagged_names",
]
