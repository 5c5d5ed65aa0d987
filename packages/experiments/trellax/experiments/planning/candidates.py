"""Ways to run a program on some hardware, compared by arithmetic: nothing is compiled.

    search = CandidateSearch(planned, own_plan)
    for candidate in search.most_promising(4): ...

What varies: `data`, `fsdp` and `model` (the other axes stay as the experiment has them), accumulation steps, and the remat
policy. Time is the roofline of executed FLOPs and estimated collectives; memory is the state's bytes, saved activations,
gradients and one gathered layer, and what the compiler needed beyond these in the experiment's own plan.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from trellax.experiments.planning.make import idle_fraction
from trellax.experiments.planning.program import PlannedProgram
from trellax.experiments.planning.remat import POLICIES, current_policy, policy_costs
from trellax.experiments.planning.report import Plan
from trellax.parallel import LogicalAxisRules, MeshShape, tensor_sequence_rules
from trellax.parallel.planning import (
    StepCosts,
    StepWork,
    estimate_collectives,
    mesh_links,
    roofline,
)

_VARIED = ("data", "fsdp", "model")
_MOST_TENSOR_PARALLEL = 8
"""Beyond it, matrices become too narrow to be fast, which the roofline does not see."""
_STEPS = (1, 2, 4, 8, 16)
_ABOUT_AS_MUCH = 1.01
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
        self._specs = planned.program.model.all_parameter_specs()
        self._state = planned.program.state_specs()
        steps = planned.cfg.accumulation_steps
        costs = policy_costs(planned)
        devices = planned.hardware.num_devices
        # Of a step in one part, and split over all devices.
        self._saved = {cost.name: cost.device_bytes * steps / devices for cost in costs}
        least = own.flops.executed * (1 - own.flops.recomputed)
        self._executed = {cost.name: least + cost.recomputed_flops * steps for cost in costs}
        self._bubble = idle_fraction(planned)
        self._unseen = 0.0
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
            links = mesh_links(shape, self._planned.hardware)
            for steps in _STEPS:
                if self._is_allowed(shape, steps):
                    for candidate in self._of_mesh(shape, steps, links):
                        self.num_compared += 1
                        if candidate.bytes <= (1 - _KEPT_FREE) * capacity:
                            yield candidate

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

    def _is_allowed(self, shape: MeshShape, steps: int) -> bool:
        cfg = self._planned.cfg.clone(accumulation_steps=steps)
        try:
            cfg.check_mesh(shape.total_sizes())
        except ValueError:
            return False
        return True

    def _of_mesh(self, shape: MeshShape, steps: int, links: Any) -> Iterator[Candidate]:
        """Yields the candidates of one mesh and number of microbatches: one for each policy."""
        collectives = {passes: self._collectives(shape, steps, passes) for passes in (1, 2)}
        fixed = self._fixed_bytes(shape, steps)
        for policy, executed in self._executed.items():
            passes = 1 if executed <= _ABOUT_AS_MUCH * min(self._executed.values()) else 2
            seconds = self._seconds(executed, collectives[passes], links)
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

    def _collectives(self, shape: MeshShape, steps: int, forward_passes: int) -> Any:
        work = StepWork(
            rows=self._own.rows // steps,
            length=self._own.length,
            accumulation_steps=steps,
            forward_passes=forward_passes,
            weight_gathers=1 + forward_passes,
        )
        rules = _rules(shape) or self._planned.cfg.axis_rules
        return estimate_collectives(self._specs, rules, shape.total_sizes(), work)

    def _fixed_bytes(self, shape: MeshShape, steps: int) -> float:
        """Bytes of a device that no policy changes: state, gradients, gathered weights of a layer."""
        rules = _rules(shape) or self._planned.cfg.axis_rules
        sizes = shape.total_sizes()
        state = _split_bytes(self._state, rules, sizes)
        gradients = _split_bytes(self._specs, rules, sizes)
        sums = gradients if steps > 1 else 0.0
        return state + gradients + sums + self._gathered_bytes(rules, sizes) + self._unseen

    def _gathered_bytes(self, rules: LogicalAxisRules, sizes: dict[str, int]) -> float:
        """Two layers' weights in the compute type, split over `model` alone: one in use, the next one arriving."""
        itemsize = np.dtype(self._planned.cfg.compute_dtype).itemsize
        whole = {axis: size if axis in ("model", "expert") else 1 for axis, size in sizes.items()}
        total = 0.0
        for spec in _leaves(self._specs):
            layers = dict(zip(spec.logical_axes, spec.shape, strict=True)).get("layers", 1)
            total += _elements(spec, rules, whole) / layers * itemsize
        return 2 * total

    def _unseen_bytes(self) -> float:
        """What the compiler needed in the experiment's own plan beyond the estimate."""
        peak, cfg = self._own.memory.peak, self._planned.cfg
        policy = current_policy(cfg)
        name = next((name for name, known in POLICIES.items() if known == policy), None)
        if peak is None or name is None or not self._own.fits:
            return 0.0
        shape = cfg.mesh_shape.resolved(self._planned.hardware.num_devices)
        steps = cfg.accumulation_steps
        return max(peak - self._fixed_bytes(shape, steps) - self._saved[name] / steps, 0.0)


def _factors(number: int) -> Iterator[dict[str, int]]:
    """Yields all ways to write a number as a product of the varied axes' sizes."""
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    for fsdp, model in itertools.product(divisors, divisors):
        if number % (fsdp * model) == 0:
            yield {"data": number // (fsdp * model), "fsdp": fsdp, "model": model}


def _rules(shape: MeshShape) -> LogicalAxisRules | None:
    """Tensor parallelism comes with norms whose sequence is split."""
    return tensor_sequence_rules() if shape.total_sizes()["model"] > 1 else None


def _split_bytes(specs: Any, rules: LogicalAxisRules, sizes: dict[str, int]) -> float:
    return sum(
        _elements(spec, rules, sizes) * np.dtype(spec.dtype).itemsize for spec in _leaves(specs)
    )


def _elements(spec: Any, rules: LogicalAxisRules, sizes: dict[str, int]) -> float:
    """Elements of an array that one device holds."""
    report = rules.explain_spec(spec.logical_axes, shape=spec.shape, axis_sizes=sizes)
    parts = math.prod(sizes[axis] for axes in report.mesh_axes for axis in axes)
    return math.prod(spec.shape) / parts


def _leaves(specs: Any) -> list[Any]:
    return jax.tree.leaves(specs, is_leaf=lambda node: hasattr(node, "logical_axes"))
