"""Where arrays lie: rules from logical to mesh axes, shardings of trees, constraints in layers.

from trellax.parallel.sharding import constrain, fsdp_tensor_rules, sharding_scope, shardings_for
"""

from trellax.parallel.sharding.axis_rules import (
    ACTIVATION_AXES,
    PARAMETER_AXES,
    LogicalAxes,
    LogicalAxisRules,
    OmittedAxis,
    SpecReport,
)
from trellax.parallel.sharding.placement import (
    ArraySpec,
    explain_shardings,
    named_sharding,
    shardings_for,
)
from trellax.parallel.sharding.report import (
    ArrayPlacement,
    LogicalArray,
    ShardingReport,
    sharding_report,
)
from trellax.parallel.sharding.rule_sets import (
    fsdp_rules,
    fsdp_tensor_rules,
    replicated_rules,
    tensor_sequence_rules,
)
from trellax.parallel.sharding.scope import (
    ShardingScope,
    constrain,
    current_scope,
    sharding_scope,
)
from trellax.parallel.sharding.split import DeviceSplit, split_over_devices

__all__ = [
    "ACTIVATION_AXES",
    "PARAMETER_AXES",
    "ArrayPlacement",
    "ArraySpec",
    "DeviceSplit",
    "LogicalArray",
    "LogicalAxes",
    "LogicalAxisRules",
    "OmittedAxis",
    "ShardingReport",
    "ShardingScope",
    "SpecReport",
    "constrain",
    "current_scope",
    "explain_shardings",
    "fsdp_rules",
    "fsdp_tensor_rules",
    "named_sharding",
    "replicated_rules",
    "sharding_report",
    "sharding_scope",
    "shardings_for",
    "split_over_devices",
    "tensor_sequence_rules",
]
