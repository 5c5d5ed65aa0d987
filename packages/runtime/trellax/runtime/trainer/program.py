"""The train step of a config on some devices, before anything is read, allocated or compiled.

    program = TrainProgram(final_cfg, devices=aot_devices(hardware_named("tpu-v5p-512")))
    compiled = program.trace().lower().compile()

The trainer runs it on the devices that are here; planning compiles it for devices that are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from trellax.runtime.trainer.executable import (
    fingerprint_of,
    load_executable,
    save_executable,
)
from trellax.runtime.trainer.placement import Placement
from trellax.runtime.trainer.train_step import TrainStep

Tree = dict[str, Any]


class TrainProgram:
    """Model, learner and step of a trainer's config, placed on a mesh.

    Attributes:
        model: the root of the modules.
        learner: what updates the parameters.
        placement: the mesh, and where arrays lie on it.
        step: the pure function of (state, batch).
    """

    def __init__(self, cfg: Any, *, devices: Sequence[Any] | None = None, mesh: Any = None):
        """
        Args:
            cfg: a final `Trainer.Config`.
            devices: all devices of all processes by default.
            mesh: an abstract mesh in place of the config's, of devices that only exist in name; the
                program can then be traced and lowered, not compiled.

        Raises:
            ValueError: if the model or the batch cannot be split over the mesh.
        """
        self._cfg = cfg
        self.model = cfg.model.instantiate()
        self.learner = cfg.learner.instantiate(parameter_specs=self.model.all_parameter_specs())
        self.placement = Placement(cfg.mesh_shape, cfg.axis_rules, devices, mesh=mesh)
        cfg.check_mesh(self.placement.mesh.shape)
        self.step = TrainStep(
            self.model,
            self.learner,
            seed=cfg.seed,
            compute_dtype=cfg.compute_dtype,
            accumulation_steps=cfg.accumulation_steps,
            prng_implementation=cfg.prng_implementation,
        )

    def state_specs(self) -> Tree:
        """Returns the specs of the train state: what a checkpoint holds."""
        return self.step.state_specs()

    def abstract_batch(self) -> Tree:
        """Returns a global batch as `ShapeDtypeStruct`s with shardings."""
        return self.placement.abstract_batch(self._cfg.input.batch_spec())

    def trace(self, batch: Tree | None = None) -> jax.stages.Traced:
        """Traces the step: (state, batch) -> (state, metrics), the state donated.

        Args:
            batch: a batch on the devices, for its shapes; None for an abstract one.
        """
        batch = self.abstract_batch() if batch is None else batch
        return self.placement.trace_step(self.step, self.state_specs(), batch)

    def init(self) -> Tree:
        """Returns the state before the first step, on the devices."""
        return self.placement.init(self.step.init, self.state_specs())

    def compile(self, batch: Tree, *, executable: str | None = None) -> jax.stages.Compiled:
        """Returns the compiled step: it runs what was compiled and never compiles again.

        Args:
            batch: a batch on the devices, for its shapes.
            executable: a file of `save` to take it from.

        Raises:
            ExecutableMismatchError: if the file is of another program.
        """
        lowered = self.trace(batch).lower()
        if executable is None:
            return lowered.compile()
        devices = self.placement.mesh.devices.flatten().tolist()
        return load_executable(executable, fingerprint_of(lowered, devices), devices)

    def save(
        self, file: str | Path, lowered: jax.stages.Lowered, compiled: jax.stages.Compiled
    ) -> int:
        """Writes the compiled step for `compile` on the machines that will run it.

        Returns:
            The number of bytes.
        """
        devices = self.placement.mesh.devices.flatten().tolist()
        return save_executable(file, compiled, fingerprint_of(lowered, devices))
