"""What a step needs by arithmetic: for hardware without a public compiler, and to compare thousands of ways to run.

    estimate = StepEstimate.of(planned)
    estimate.fixed_bytes(rules, sizes, steps)

Bytes are of one device: state, gradients and two layers' gathered weights. What the layer that runs needs beside them (scores,
logits of a chunk) is not seen, nor is what a compiler adds, so that real programs take more.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from trellax.experiments.planning.program import PlannedProgram
from trellax.parallel import LogicalAxisRules, sharding_report
from trellax.parallel.planning import Collective, StepWork, estimate_collectives

_ABOUT_NOTHING = 0.01
"""Share of recomputed FLOPs up to which there is no second forward pass."""


@dataclasses.dataclass(frozen=True)
class StepEstimate:
    """The arrays of a step, before they are split over any mesh.

    Attributes:
        specs: of the parameters.
        state: of the train state.
        compute_dtype: of weights and activations in matrix multiplications.
        rows: of a step.
        length: tokens of a row.
    """

    specs: Any
    state: Any
    compute_dtype: str
    rows: int
    length: int

    @classmethod
    def of(cls, planned: PlannedProgram) -> StepEstimate:
        """Returns the arrays of a program."""
        rows, length = planned.cfg.input.batch_spec()["input_ids"].shape
        specs = planned.program.model.all_parameter_specs()
        state = planned.program.state_specs()
        return cls(specs, state, planned.cfg.compute_dtype, rows, length)

    def fixed_bytes(self, rules: LogicalAxisRules, sizes: dict[str, int], steps: int) -> float:
        """Returns the bytes of a device that no remat policy changes: state, gradients, gathered weights.

        Args:
            rules: which mesh axes split each logical axis.
            sizes: devices along each mesh axis.
            steps: of accumulation; with several, sums of gradients are kept beside the gradients.
        """
        split = lambda specs: sharding_report(specs, rules=rules, axis_sizes=sizes).bytes_per_device
        gradients = split(self.specs)
        sums = gradients if steps > 1 else 0.0
        gathered = self._gathered_bytes(rules, sizes)
        return split(self.state) + gradients + sums + gathered

    def collectives(
        self, rules: LogicalAxisRules, sizes: dict[str, int], steps: int, *, forward_passes: int
    ) -> tuple[Collective, ...]:
        """Returns what devices send one another in a step.

        Args:
            rules: which mesh axes split each logical axis.
            sizes: devices along each mesh axis.
            steps: of accumulation.
            forward_passes: of each microbatch (`forward_passes`).
        """
        work = StepWork(
            rows=self.rows // steps,
            length=self.length,
            accumulation_steps=steps,
            forward_passes=forward_passes,
            weight_gathers=1 + forward_passes,
            compute_bytes=np.dtype(self.compute_dtype).itemsize,
            gradient_bytes=np.dtype(self.compute_dtype).itemsize,
        )
        return estimate_collectives(self.specs, rules, sizes, work)

    def _gathered_bytes(self, rules: LogicalAxisRules, sizes: dict[str, int]) -> float:
        """Two layers' weights, split over `model` and `expert` alone: one in use, the next one arriving."""
        itemsize = np.dtype(self.compute_dtype).itemsize
        whole = {axis: size if axis in ("model", "expert") else 1 for axis, size in sizes.items()}
        total = 0.0
        for spec in _leaves(self.specs):
            layers = dict(zip(spec.logical_axes, spec.shape, strict=True)).get("layers", 1)
            total += _elements(spec, rules, whole) / layers * itemsize
        return 2 * total


def forward_passes(recomputed: float) -> int:
    """Returns 2 where the backward pass runs layers again, else 1.

    Args:
        recomputed: share of the FLOPs that are computed again.
    """
    return 1 if recomputed <= _ABOUT_NOTHING else 2


def _elements(spec: Any, rules: LogicalAxisRules, sizes: dict[str, int]) -> float:
    """Elements of an array that one device holds."""
    report = rules.explain_spec(spec.logical_axes, shape=spec.shape, axis_sizes=sizes)
    parts = math.prod(sizes[axis] for axes in report.mesh_axes for axis in axes)
    return math.prod(spec.shape) / parts


def _leaves(specs: Any) -> list[Any]:
    return jax.tree.leaves(specs, is_leaf=lambda node: hasattr(node, "logical_axes"))
