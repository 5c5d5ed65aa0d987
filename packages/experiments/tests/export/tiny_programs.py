"""Every experiment's train step at a tiny size, placed on one device of any platform.

program = tiny_program("mixtral_8x7b", "tpu-v5e-1", compute_dtype="bfloat16")
"""

from __future__ import annotations

from typing import Any

import jax

from trellax.config import finalize
from trellax.experiments import get_experiment
from trellax.experiments.rehearsal import RehearsalModifier
from trellax.parallel import MeshShape, apply_mesh_rule, hardware_named, select_mesh_rule
from trellax.runtime import TrainProgram

LENGTH = 256
"""Long enough for kernels that work on blocks of 128."""


def tiny_program(name: str, hardware_name: str, *, compute_dtype: str) -> TrainProgram:
    """Returns the program of an experiment, with what its mesh rule for the hardware changes but the mesh."""
    hardware = hardware_named(hardware_name)
    recipe = get_experiment(name)
    rule = select_mesh_rule(recipe.mesh_rules, hardware.name)
    cfg, _ = apply_mesh_rule(recipe, rule)
    cfg = RehearsalModifier.default_config().set(sequence_length=LENGTH).instantiate()(cfg)
    cfg.set(mesh_shape=MeshShape(), accumulation_steps=1, compute_dtype=compute_dtype)
    cfg.evaluators = {}
    return TrainProgram(finalize(cfg), mesh=_one_device(hardware))


def arguments(program: TrainProgram) -> tuple[Any, Any]:
    """Returns state and batch as shapes without shardings."""
    bare = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)  # noqa: E731
    state = jax.eval_shape(program.step.init)
    return jax.tree.map(bare, state), jax.tree.map(bare, program.abstract_batch())


def _one_device(hardware: Any) -> Any:
    names = tuple(MeshShape().total_sizes())
    device = jax.sharding.AbstractDevice(hardware.chip.device_kinds[0], None, hardware.platform)
    return jax.sharding.AbstractMesh(
        (1,) * len(names),
        names,
        axis_types=(jax.sharding.AxisType.Auto,) * len(names),
        abstract_device=device,
    )
