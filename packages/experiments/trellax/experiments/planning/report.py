"""What a plan says, as plain data: numbers with units in their names, ready for JSON.

Bytes are per device and FLOPs of all devices together, of one training step.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """Bytes of one device.

    Attributes:
        capacity: what a program may use; None where that is not known.
        parameters: the model's parameters.
        optimizer: the learner's state.
        inputs: all arguments of the step: state and batch.
        peak: the most that is in use at any time; None where the compiler tells only that it is too much.
        temporary: what the compiler allocates besides arguments and results: activations, gradients, gathered weights.
        host: activations that are offloaded to the host.
        source: where the peak is from.
        overflows: whether the compiler gave up because this is too much.
    """

    capacity: float | None
    parameters: float
    optimizer: float
    inputs: float
    temporary: float | None
    peak: float | None
    host: float
    source: str
    overflows: bool = False

    @property
    def working(self) -> float | None:
        """What the peak holds besides the state: activations, gradients, gathered weights."""
        return None if self.peak is None else max(self.peak - self.inputs, 0.0)

    @property
    def margin(self) -> float | None:
        """What is left at the peak; negative where it does not fit."""
        if self.capacity is None or self.peak is None:
            return None
        return self.capacity - self.peak

    @property
    def fits(self) -> bool | None:
        """Whether the step fits; None where the capacity, or the peak, is not known."""
        if self.overflows:
            return False
        return None if self.margin is None else self.margin >= 0


@dataclasses.dataclass(frozen=True)
class CollectiveReport:
    """All collectives of one kind over the same mesh axes.

    Attributes:
        kind: "all-gather", "reduce-scatter", "all-reduce", "all-to-all" or "permute".
        axes: the mesh axes.
        network: what they cross: "ici", "nvlink", … or "network" between slices or nodes.
        bytes: that a device takes part with in a step.
        times: executions in a step.
        seconds: the least time they take if nothing else uses the links.
    """

    kind: str
    axes: tuple[str, ...]
    network: str
    bytes: float
    times: int
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class FlopReport:
    """FLOPs of a step.

    Attributes:
        model: 3 x the forward matmuls, attention in full: what MFU counts.
        executed: what the program does, recomputation included, attention as the kernels do it.
        recomputed: share of `executed` beyond what a step without remat would execute.
    """

    model: float
    executed: float
    recomputed: float


@dataclasses.dataclass(frozen=True)
class BoundReport:
    """The least time of a step, were everything overlapped and every part at its peak.

    Attributes:
        seconds: the bound: the largest of the parts.
        by: the part that it is.
        parts: seconds of each: "compute", "hbm", and each network with the axes that use it.
        bubble: share of the step that pipeline stages wait.
        mfu: model FLOPs over peak FLOPs of the bound, the most that can be reached.
        tokens_per_second: at the bound.
    """

    seconds: float
    by: str
    parts: dict[str, float]
    bubble: float
    mfu: float
    tokens_per_second: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """An experiment on some hardware, as `trellax plan` tells it."""

    experiment: str
    hardware: str
    num_devices: int
    rule: str
    mesh: dict[str, int]
    across: dict[str, int]
    rows: int
    length: int
    accumulation_steps: int
    num_parameters: int
    memory: MemoryReport
    flops: FlopReport
    collectives: tuple[CollectiveReport, ...]
    bound: BoundReport | None
    findings: tuple[str, ...] = ()
    """Limits of the platform that the program breaks, each with the module that does."""
    advice: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be found out exactly."""
    cost: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of making the plan: CPU and wall seconds, resident bytes."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def fits(self) -> bool | None:
        """Whether the step fits the device's memory; None where that is not known."""
        return self.memory.fits

    def with_cost(self, cost: dict[str, float]) -> Plan:
        """Returns the plan with what it took to make."""
        return dataclasses.replace(self, cost=cost)

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON's types, with what follows from it."""
        values = dataclasses.asdict(self)
        values["memory"] |= {
            "working": self.memory.working,
            "margin": self.memory.margin,
            "fits": self.memory.fits,
        }
        return values
