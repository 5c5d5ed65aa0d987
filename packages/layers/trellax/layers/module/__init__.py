"""Modules, the contexts their calls run in, and the pure function that bridges them to JAX."""

from trellax.layers.module.context import (
    InvocationContext,
    PRNGKey,
    current_context,
    entered,
    fold_in_name,
)
from trellax.layers.module.functional import functional
from trellax.layers.module.module import Module, structural
from trellax.layers.module.outputs import (
    OutputCollection,
    WeightedScalar,
    averaged_summaries,
    averaged_updates,
    total_loss,
    with_updates,
)

__all__ = [
    "InvocationContext",
    "Module",
    "OutputCollection",
    "PRNGKey",
    "WeightedScalar",
    "averaged_summaries",
    "averaged_updates",
    "current_context",
    "entered",
    "fold_in_name",
    "functional",
    "structural",
    "total_loss",
    "with_updates",
]
