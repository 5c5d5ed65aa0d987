"""The train step of an experiment on hardware that is not here: traced, or lowered and compiled.

program = planned_program(resolved.cfg, hardware)
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from trellax.config import REQUIRED, FieldTypeError, finalize, nodes
from trellax.parallel import Hardware, MeshShape
from trellax.parallel.planning import abstract_mesh, aot_devices
from trellax.runtime import TrainProgram

_UNREAD = "(not read: this is a plan)"


@dataclasses.dataclass(frozen=True)
class PlannedProgram:
    """An experiment's program, placed on some hardware.

    Attributes:
        cfg: the final config.
        hardware: what it is for.
        program: model, step and placement.
    """

    cfg: Any
    hardware: Hardware
    program: TrainProgram

    @functools.cached_property
    def traced(self) -> Any:
        """The step as a jaxpr, before partitioning."""
        return self.program.trace()

    @functools.cached_property
    def lowered(self) -> Any:
        """The step as StableHLO."""
        if self.has_compiler:
            return self.traced.lower()
        return self.traced.lower(lowering_platforms=(self.hardware.platform,))

    @property
    def has_compiler(self) -> bool:
        """Whether programs for the hardware can be compiled elsewhere; AWS publishes no such compiler for Trainium."""
        return self.hardware.platform != "neuron"

    def on_one_device(self) -> PlannedProgram:
        """Returns the same program for one device, to trace: with its kernels, without what partitioning adds (buffers
        for the worst case, work that several devices do)."""
        cfg = self.cfg.clone(mesh_shape=MeshShape())
        mesh = abstract_mesh(MeshShape(), dataclasses.replace(self.hardware, num_devices=1))
        final = finalize(cfg)
        return PlannedProgram(final, self.hardware, TrainProgram(final, mesh=mesh))

    @property
    def axis_sizes(self) -> dict[str, int]:
        """Devices along each mesh axis."""
        return dict(self.program.placement.mesh.shape)


def planned_program(cfg: Any, hardware: Hardware) -> PlannedProgram:
    """Returns the program of a trainer's config.

    Args:
        cfg: with the mesh rule applied, not final; stays as it is. Where its data lies need not be known.
        hardware: what to place it on.

    Raises:
        ConfigError: if the config has a mistake.
        ValueError: if it does not fit the mesh.
        PlanningUnavailableError: if the compiler for the hardware is not installed.
    """
    final = finalize(_without_data(cfg))
    if hardware.platform == "neuron":
        program = TrainProgram(final, mesh=abstract_mesh(final.mesh_shape, hardware))
    else:
        program = TrainProgram(final, devices=aot_devices(hardware))
    return PlannedProgram(final, hardware, program)


def _without_data(cfg: Any) -> Any:
    """Returns a copy that lacks nothing: a plan needs the shape of a batch, not its files."""
    cfg = cfg.clone(evaluators={})
    for _, node in list(nodes(cfg.input)):
        for name in node.keys():  # noqa: SIM118  A config is no mapping.
            if getattr(node, name) is REQUIRED:
                _fill(node, name)
    return cfg


def _fill(node: Any, name: str) -> None:
    for value in (_UNREAD, [_UNREAD]):
        try:
            node.set(**{name: value})
        except FieldTypeError:
            continue
        return
