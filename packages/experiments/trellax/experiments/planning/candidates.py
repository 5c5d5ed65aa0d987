"""Ways to run a program on some hardware, compared by arithmetic: nothing is compiled.

    search = CandidateSearch(planned, own_plan)
    for candidate in search.most_promising(4): ...

What varies: `data`, `fsdp` and `model` (the other axes stay as the experiment has them), accumulation steps, and the remat
policy. Time is the roofline of executed FLOPs and estimated collectives; memory is the state's bytes, saved activations,
gradients and one gathered layer, and what the compiler needed beyond these in the experiment's own plan.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

from trellax.experiments.planning.estimates import StepEstimate, forward_passes
from trellax.experiments.planning.make import idle_fraction
from trellax.experiments.planning.program import PlannedProgram
from trellax.experiments.planning.remat import current_policy_name, policy_costs
from trellax.experiments.planning.report import Plan
from trellax.parallel import LogicalAxisRules, MeshShape, tensor_sequence_rules
from trellax.parallel.planning import AxisLinks, StepCosts, mesh_links, roofline

_VARIED = ("data", "fsdp", "model")
_MOST_TENSOR_PARALLEL = 8
"""Beyond it, matrices become too narrow to be fast, which the roofline does not see."""
_STEPS = (1, 2, 4, 8, 16)
_KEPT_FREE = 0.05
"""Share of the memory that an estimate must leave."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to run, and what it is estimated to take.

    Attributes:
        mesh_shape: the devices' arrangement.
        axis_rules: None for those of the experiment.
        accumulation_steps: microbatches of a step.
        policy: name of the remat policy.
        bytes: of one device.
        seconds: of a step, the roofline's longest part.
        total_seconds: of all parts one after another, which tells equal bounds apart.
    """

    mesh_shape: MeshShape
    axis_rules: LogicalAxisRules | None
    accumulation_steps: int
    policy: str
    bytes: float
    seconds: float
    total_seconds: float


class CandidateSearch:
    """All candidates of a program that its checks allow and that are estimated to fit."""

    def __init__(self, planned: PlannedProgram, own: Plan):
        """
        Args:
            planned: the program by the experiment's own rule.
            own: its plan.
        """
        self._planned = planned
        self._own = own
        self._estimate = StepEstimate.of(planned)
        steps = planned.cfg.accumulation_steps
        costs = policy_costs(planned)
        devices = planned.hardware.num_devices
        # Of a step in one part, and split over all devices.
        self._saved = {cost.name: cost.device_bytes * steps / devices for cost in costs}
        least = own.flops.executed * (1 - own.flops.recomputed)
        self._executed = {cost.name: least + cost.recomputed_flops * steps for cost in costs}
        self._bubble = idle_fraction(planned)
        self._unseen = self._unseen_bytes()
        self.num_compared = 0

    def most_promising(self, number: int) -> list[Candidate]:
        """Returns the candidates to compile, the best first; no two of the same mesh and policy."""
        ranked = sorted(self._all(), key=lambda c: (round(c.seconds, 4), c.total_seconds, c.bytes))
        chosen: list[Candidate] = []
        seen: set[Any] = set()
        for candidate in ranked:
            key = (str(candidate.mesh_shape), candidate.policy)
            if key not in seen and len(chosen) < number:
                seen.add(key)
                chosen.append(candidate)
        return chosen

    def _all(self) -> Iterator[Candidate]:
        """Yields every candidate that is allowed and estimated to fit."""
        capacity = self._planned.hardware.usable_hbm_bytes_per_device or math.inf
        for shape in self._shapes():
            links = self._links(shape)
            if links is None:
                continue
            for steps in self._numbers_of_steps():
                if self._is_allowed(shape, steps):
                    for candidate in self._of_mesh(shape, steps, links):
                        self.num_compared += 1
                        if candidate.bytes <= (1 - _KEPT_FREE) * capacity:
                            yield candidate

    def _numbers_of_steps(self) -> list[int]:
        """Returns the usual ones, and those around the experiment's own, of those that the batch splits into."""
        own = self._planned.cfg.accumulation_steps
        steps = {*_STEPS, max(own // 2, 1), own, 2 * own}
        return sorted(n for n in steps if self._own.rows % n == 0)

    def _shapes(self) -> Iterator[MeshShape]:
        """Yields the experiment's mesh with other factors of the varied axes, within slices or nodes and across."""
        own = self._planned.cfg.mesh_shape.resolved(self._planned.hardware.num_devices)
        within = math.prod(getattr(own, axis) for axis in _VARIED)
        across = 1 if own.dcn is None else math.prod(getattr(own.dcn, axis) for axis in _VARIED)
        for near in _factors(within):
            for far in _factors(across):
                if near["model"] > _MOST_TENSOR_PARALLEL or far["model"] > 1:
                    continue
                shape = own.clone(**near)
                if shape.dcn is not None:
                    shape.dcn.set(**far)
                yield shape

    def _links(self, shape: MeshShape) -> dict[str, AxisLinks] | None:
        """Returns the links of each axis; None if the shape cannot be laid over the slices."""
        try:
            return mesh_links(shape, self._planned.hardware)
        except ValueError:
            return None

    def _is_allowed(self, shape: MeshShape, steps: int) -> bool:
        cfg = self._planned.cfg.clone(accumulation_steps=steps)
        try:
            cfg.check_mesh(shape.total_sizes())
        except ValueError:
            return False
        return True

    def _of_mesh(self, shape: MeshShape, steps: int, links: Any) -> Iterator[Candidate]:
        """Yields the candidates of one mesh and number of microbatches: one for each policy."""
        rules = _rules(shape) or self._planned.cfg.axis_rules
        sizes = shape.total_sizes()
        of_passes = functools.cache(
            lambda passes: self._estimate.collectives(rules, sizes, steps, forward_passes=passes)
        )
        fixed = self._estimate.fixed_bytes(rules, sizes, steps) + self._unseen
        least = min(self._executed.values())
        for policy, executed in self._executed.items():
            collectives = of_passes(forward_passes(1 - least / executed))
            seconds = self._seconds(executed, collectives, links)
            yield Candidate(
                mesh_shape=shape,
                axis_rules=_rules(shape),
                accumulation_steps=steps,
                policy=policy,
                bytes=fixed + self._saved[policy] / steps,
                seconds=max(seconds),
                total_seconds=sum(seconds),
            )

    def _seconds(self, executed: float, collectives: Any, links: Any) -> list[float]:
        flops = {self._planned.cfg.compute_dtype: executed}
        costs = StepCosts(self._own.flops.model, flops, 0.0, collectives)
        terms = dict(roofline(costs, self._planned.hardware, links).terms)
        terms["compute"] /= 1 - self._bubble
        return list(terms.values())

    def _unseen_bytes(self) -> float:
        """What the compiler needed in the experiment's own plan beyond the estimate."""
        if self._own.memory.peak is None or not self._own.fits:
            return 0.0
        cfg = self._planned.cfg
        steps = cfg.accumulation_steps
        seen = self._estimate.fixed_bytes(cfg.axis_rules, self._planned.axis_sizes, steps)
        saved = self._saved[current_policy_name(cfg)] / steps
        return max(self._own.memory.peak - seen - saved, 0.0)


def _factors(number: int) -> Iterator[dict[str, int]]:
    """Yields all ways to write a number as a product of the varied axes' sizes."""
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    for fsdp, model in itertools.product(divisors, divisors):
        if number % (fsdp * model) == 0:
            yield {"data": number // (fsdp * model), "fsdp": fsdp, "model": model}


def _rules(shape: MeshShape) -> LogicalAxisRules | None:
    """Tensor parallelism comes with norms whose sequence is split."""
    return tensor_sequence_rules() if shape.total_sizes()["model"] > 1 else None
