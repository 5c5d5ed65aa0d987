"""A pipeline on many devices is the scanned stack on one: loss, gradients, outputs, parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.calls import assert_trees_equal, built, called
from tests.causal_lm.models import D
from tests.stack.pipelines import (
    Model,
    assert_equals_one_device,
    compiled_gradients,
    one_device,
    packed_batch,
    pipelined,
    results,
    scope,
)
from tests.tolerances import TOLERANCE
from trellax.layers.attention import TokenInfo
from trellax.layers.base import is_spec
from trellax.layers.stack import bubble_fraction
from trellax.parallel import nothing_saveable

GPIPE = {"schedule": "gpipe", "num_microbatches": 4}
ONE_F_ONE_B = {"schedule": "1f1b", "num_microbatches": 4}
CIRCULAR = {"schedule": "circular", "num_microbatches": 4, "num_repeats": 2}


def named(*cases: tuple[dict[str, Any], dict[str, int]]) -> Any:
    """Returns a parameter set of (fields, mesh) with readable names."""
    sizes = lambda mesh: "-".join(f"{axis}{size}" for axis, size in mesh.items())
    return [pytest.param(*case, id=f"{case[0]['schedule']}-{sizes(case[1])}") for case in cases]


# ---- parity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "mesh"),
    named(
        (GPIPE, {"pipeline": 2, "fsdp": 2, "model": 2}),
        (GPIPE, {"pipeline": 4, "seq": 2}),
        (CIRCULAR, {"pipeline": 2, "data": 2, "model": 2}),
        (ONE_F_ONE_B, {"pipeline": 4, "data": 2}),
        (ONE_F_ONE_B, {"pipeline": 2, "seq": 2, "model": 2}),
        # Four rows a microbatch: stages share the work after the stack.
        (GPIPE | {"num_microbatches": 2}, {"pipeline": 2, "data": 2}),
        (ONE_F_ONE_B | {"num_microbatches": 2}, {"pipeline": 2, "fsdp": 2}),
        # Fewer microbatches than stages: slow, but right.
        (ONE_F_ONE_B | {"num_microbatches": 2}, {"pipeline": 4}),
    ),
)
def test_loss_and_gradients_equal_one_device(fields: Any, mesh: Any):
    assert_equals_one_device(fields, mesh)


def test_eight_stages_equal_one_device():
    assert_equals_one_device(ONE_F_ONE_B, {"pipeline": 8}, model=Model(num_layers=8))


@pytest.mark.parametrize(
    ("fields", "mesh"),
    named(
        (GPIPE, {"pipeline": 4}),
        (CIRCULAR, {"pipeline": 2}),
        (ONE_F_ONE_B | {"layers_per_stage": (3, 2)}, {"pipeline": 2}),
    ),
)
def test_uneven_stages_equal_one_device(fields: Any, mesh: Any):
    assert_equals_one_device(fields, mesh, model=Model(num_layers=5))


@pytest.mark.parametrize("fields", [GPIPE, CIRCULAR, ONE_F_ONE_B], ids=lambda f: f["schedule"])
def test_mixtures_have_the_losses_and_summaries_of_accumulated_microbatches(fields: Any):
    model = Model(num_layers=5 if fields is ONE_F_ONE_B else 4, is_moe=True)
    ours = assert_equals_one_device(fields, {"pipeline": 2, "expert": 2}, model=model)
    _, parts = one_device(model, 8, fields["num_microbatches"])
    bubble = ours["decoder"]["stack"].pop("pipeline_bubble")
    assert bubble == np.float32(
        bubble_fraction(2, 4, fields.get("num_repeats", 1), fields["schedule"])
    )
    stacks = [part["decoder"]["stack"] for part in parts]
    expected = jax.tree.map(lambda *xs: sum(xs) / len(xs), *stacks)
    assert_trees_equal(ours["decoder"]["stack"], expected, **TOLERANCE["float32"])
    z_losses = [part["loss"]["z_loss"] for part in parts]
    weights = [float(weight) for _, weight in z_losses]
    mean = np.average([mean for mean, _ in z_losses], weights=weights)
    np.testing.assert_allclose(ours["loss"]["z_loss"].mean, mean, **TOLERANCE["float32"])
    assert ours["loss"]["z_loss"].weight == sum(weights)


@pytest.mark.parametrize(
    ("fields", "layer"),
    [
        (GPIPE | {"stage_remat": nothing_saveable()}, {}),
        (ONE_F_ONE_B, {"remat": nothing_saveable()}),
    ],
    ids=["stage", "layer"],
)
def test_rematerialized_pipelines_equal_one_device(fields: Any, layer: Any):
    assert_equals_one_device(fields, {"pipeline": 2}, **layer)


# ---- randomness ---------------------------------------------------------------------------------


def test_schedules_draw_the_same_random_numbers():
    model, batch = Model(dropout=0.3), packed_batch(8)
    run = lambda fields: results(model.config(pipelined(**fields)), batch, {"pipeline": 2})
    (loss, _), grads = run(GPIPE)
    (other, _), others = run(ONE_F_ONE_B)
    assert_trees_equal((loss, grads), (other, others), **TOLERANCE["float32"])


def test_each_microbatch_draws_its_own():
    cfg = Model(dropout=0.3).config(pipelined(**GPIPE)).decoder.stack.set(input_dim=D)
    stack, params = built(cfg)
    with scope({"pipeline": 2}):
        call = jax.jit(lambda p, x: called(stack, p, x, TokenInfo(), training=True)[0])
        y_BSD = call(params, jnp.ones((4, 4, D)))  # A row a microbatch.
    assert len(np.unique(np.asarray(y_BSD).reshape(4, -1)[:, 0].round(5))) == 4


# ---- parameters ---------------------------------------------------------------------------------


def test_parameters_are_those_of_a_scanned_stack_and_lie_with_their_stages():
    scanned, params = built(Model().config())
    piped, same = built(Model().config(pipelined(**ONE_F_ONE_B)))
    assert_trees_equal(params, same)
    describe = lambda model: jax.tree.map(
        lambda spec: (spec.shape, spec.dtype, spec.logical_axes),
        model.all_parameter_specs(),
        is_leaf=is_spec,
    )
    assert describe(scanned) == describe(piped)
    specs = jax.tree.leaves(piped.all_parameter_specs()["decoder"]["stack"], is_leaf=is_spec)
    with scope({"pipeline": 4}) as entered:
        rules = entered.rules
    assert all(rules.spec(spec.logical_axes)[0] == "pipeline" for spec in specs)


# ---- without a pipeline -------------------------------------------------------------------------


def test_without_a_mesh_it_is_a_scanned_stack():
    fields = ONE_F_ONE_B | {"num_microbatches": 3}
    (loss, (sums, outputs)), grads = results(Model().config(pipelined(**fields)), packed_batch(8))
    expected, (summaries,) = one_device(Model())
    assert_trees_equal((loss, sums, outputs.losses, grads), expected, **TOLERANCE["float32"])
    assert_trees_equal(outputs.summaries, summaries, **TOLERANCE["float32"])


@pytest.mark.parametrize("rows", [8, 3])
def test_evaluation_takes_any_number_of_rows(rows: int):
    model, params = built(Model().config(pipelined(**ONE_F_ONE_B)))
    batch = packed_batch(rows)
    expected, _ = called(built(Model().config())[0], params, batch)
    with scope({"pipeline": 4, "data": 2}):
        found = jax.jit(lambda p, b: called(model, p, b)[0])(params, batch)
    assert_trees_equal(found, expected, **TOLERANCE["float32"])


def test_decoding_with_state_is_that_of_a_scanned_stack():
    batch = packed_batch(2)
    tokens = TokenInfo.contiguous(2, batch["input_ids"].shape[1])

    def run(cfg: Any) -> Any:
        model, params = built(cfg)
        state = model.init_state(batch_size=2, max_length=16)
        call = lambda p, s: called(model, p, batch["input_ids"], tokens, state=s, method="logits")
        logits, outputs = jax.jit(call)(params, state)
        return logits, outputs.state_updates

    expected = run(Model().config())
    with scope({"pipeline": 2}):
        found = run(Model().config(pipelined(**GPIPE)))
    assert_trees_equal(found, expected, **TOLERANCE["float32"])


def test_a_stack_that_is_called_alone_is_differentiated_too():
    cfg = Model().config(pipelined(**ONE_F_ONE_B)).decoder.stack.set(input_dim=D)
    stack, params = built(cfg)
    plain, _ = built(Model().config().decoder.stack.set(input_dim=D))
    x_BSD = jax.random.normal(jax.random.key(2), (8, 4, D))
    loss = lambda stack: jax.jit(
        jax.value_and_grad(
            lambda p: jnp.sum(called(stack, p, x_BSD, TokenInfo(), training=True)[0] ** 2)
        )
    )
    expected = loss(plain)(params)
    with scope({"pipeline": 2}):
        found = loss(stack)(params)
    assert_trees_equal(found, expected, rtol=1e-4, atol=1e-4)


# ---- memory -------------------------------------------------------------------------------------


def test_1f1b_keeps_as_many_activations_for_any_number_of_microbatches():
    """What grows is the batch itself: the embedded tokens and their gradient."""

    def temporary_bytes(schedule: str, num_microbatches: int) -> int:
        fields = {"schedule": schedule, "num_microbatches": num_microbatches}
        batch = packed_batch(2 * num_microbatches)
        compiled, _ = compiled_gradients(
            Model().config(pipelined(**fields)), batch, {"pipeline": 4}
        )
        return compiled.memory_analysis().temp_size_in_bytes

    def growth(schedule: str) -> float:
        """Returns hidden states that another microbatch needs."""
        more = temporary_bytes(schedule, 24) - temporary_bytes(schedule, 8)
        return more / 16 / (2 * 8 * D * 4)

    assert growth("1f1b") < 4
    assert growth("gpipe") > 16
