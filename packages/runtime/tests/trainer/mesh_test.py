"""Training on eight virtual devices equals training on one: FSDP, tensor, and with loops unrolled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)  # Programs run a step or three.

from tests.tiny import tiny_input, tiny_trainer  # noqa: E402
from tests.tolerances import TOLERANCE  # noqa: E402
from trellax.config import finalize, replace_config  # noqa: E402
from trellax.layers import ScannedStack, UnrolledStack  # noqa: E402
from trellax.parallel import MeshShape  # noqa: E402
from trellax.runtime.trainer import Placement, TrainStep  # noqa: E402

ONE_DEVICE = MeshShape(data=1)
PLANS = {
    "fsdp": MeshShape(fsdp=8),
    "fsdp_tensor": MeshShape(fsdp=4, model=2),
    "data_fsdp_tensor": MeshShape(data=2, fsdp=2, model=2),
}


def run(mesh_shape: MeshShape, *, unrolled: bool = False, accumulation_steps: int = 1) -> Any:
    """Returns (losses of three steps, gradients of the first) on a mesh."""
    cfg = tiny_trainer().set(input=tiny_input(batch_size=16), accumulation_steps=accumulation_steps)
    if unrolled:
        replace_config(cfg, target=ScannedStack, new_cfg=UnrolledStack.default_config())
    final = finalize(cfg)
    model = final.model.instantiate()
    learner = final.learner.instantiate(parameter_specs=model.all_parameter_specs())
    step = TrainStep(model, learner, seed=0, accumulation_steps=accumulation_steps)
    devices = jax.devices()[:1] if mesh_shape is ONE_DEVICE else None
    placement = Placement(mesh_shape, final.axis_rules, devices)
    return _three_steps(placement, step, final.input.instantiate())


def _three_steps(placement: Placement, step: TrainStep, source: Any) -> Any:
    state = placement.init(step.init, step.state_specs())
    batches = [placement.put_batch(source.batch(i)) for i in range(3)]
    with placement.scope():
        key = jax.random.key(0)
        grads = jax.device_get(jax.jit(step._gradients)(state["params"], batches[0], key)[0])
    compiled = placement.trace_step(step, step.state_specs(), batches[0]).lower().compile()
    losses = []
    for batch in batches:
        state, metrics = compiled(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, grads, state


@pytest.fixture(scope="module")
def one_device() -> Any:
    return run(ONE_DEVICE)


def assert_same(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual[0], expected[0], **TOLERANCE["float32"])
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, **TOLERANCE["float32"]),
        actual[1],
        expected[1],
    )


@pytest.mark.parametrize("plan", PLANS)
def test_losses_and_gradients_equal_one_device(plan: str, one_device: Any) -> None:
    assert_same(run(PLANS[plan]), one_device)


def test_unrolled_layers_equal_scanned_ones(one_device: Any) -> None:
    assert_same(run(ONE_DEVICE, unrolled=True), one_device)


def test_unrolled_layers_on_a_mesh_equal_one_device(one_device: Any) -> None:
    assert_same(run(PLANS["fsdp_tensor"], unrolled=True), one_device)


def test_accumulation_on_a_mesh_equals_one_device(one_device: Any) -> None:
    assert_same(run(PLANS["fsdp"], accumulation_steps=2), one_device)


def test_devices_hold_only_their_part_of_parameters_and_optimizer_state() -> None:
    _, _, state = run(PLANS["fsdp_tensor"])
    weights = [
        x
        for tree in (state["params"], state["learner"])
        for x in jax.tree.leaves(tree)
        if x.ndim >= 2 and x.size > 64
    ]
    assert weights
    for weight in weights:
        held = weight.addressable_shards[0].data.size
        assert held <= weight.size // 4, (weight.shape, weight.sharding)


def test_a_checkpoint_goes_from_one_mesh_to_another_and_training_goes_on(tmp_path: Path) -> None:
    def train(max_steps: int, mesh_shape: MeshShape) -> list[float]:
        cfg = tiny_trainer(max_steps=max_steps).set(
            input=tiny_input(batch_size=16), mesh_shape=mesh_shape, evaluators={}
        )
        outcome = cfg.instantiate(directory=str(tmp_path / str(mesh_shape.model))).run()
        return outcome.metrics["loss"]

    train(2, PLANS["fsdp"])
    (tmp_path / "1").rename(tmp_path / "2")
    moved = train(4, PLANS["fsdp_tensor"])
    straight = train(4, PLANS["fsdp"])
    np.testing.assert_allclose(moved, straight, **TOLERANCE["float32"])
