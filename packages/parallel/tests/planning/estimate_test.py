"""Estimated collectives are those of the compiled program, within the factors given here."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from tests.planning.tiny_program import EMBED, LAYERS, MLP, ROWS, lowered_step
from trellax.parallel import (
    LogicalAxisRules,
    MeshShape,
    build_mesh,
    constrain,
    named_sharding,
    sharding_scope,
    shardings_for,
    tensor_sequence_rules,
)
from trellax.parallel.planning import StepWork, bytes_by_kind, compile_program, estimate_collectives


class Spec(NamedTuple):
    shape: tuple[int, ...]
    logical_axes: tuple[str | None, ...]


SPECS = {
    "up": Spec((LAYERS, EMBED, MLP), ("layers", "embed", "mlp")),
    "down": Spec((LAYERS, MLP, EMBED), ("layers", "mlp", "embed")),
}
RULES = LogicalAxisRules()


def step_by_rules(mesh, rules, *, batch, length):
    """Returns a lowered training step of the same layer as a model writes it: logical axes, matrices in a scan."""

    def loss(params, x):
        def layer(x, w):
            x = constrain(x, ("batch", "residual_length", "act_embed"))
            h = constrain(jnp.tanh(x @ w["up"]), ("batch", "length", "act_mlp"))
            return constrain(x + h @ w["down"], ("batch", "residual_length", "act_embed")), None

        return jnp.sum(jax.lax.scan(layer, x, params)[0] ** 2)

    with sharding_scope(mesh, rules):
        shardings = shardings_for(SPECS, mesh, rules)
        params = {
            name: jax.ShapeDtypeStruct(spec.shape, jnp.float32, sharding=shardings[name])
            for name, spec in SPECS.items()
        }
        on_batch = named_sharding(mesh, rules, ("batch", "length", None), (batch, length, EMBED))
        x = jax.ShapeDtypeStruct((batch, length, EMBED), jnp.float32, sharding=on_batch)
        return jax.jit(jax.grad(loss), out_shardings=shardings).lower(params, x)


def work(rows, length, **changes):
    exact = {"compute_bytes": 4, "gradient_bytes": 4, "forward_passes": 1}
    return StepWork(rows=rows, length=length, **{**exact, **changes})


@pytest.mark.parametrize(
    ("sizes", "factor"),
    [
        ({"fsdp": 8}, 1.05),
        ({"data": 8}, 1.05),
        ({"data": 2, "fsdp": 4}, 1.05),
        ({"fsdp": 4, "model": 2}, 1.05),
        ({"model": 8}, 1.05),
    ],
    ids=str,
)
def test_bytes_of_each_kind_agree_with_the_compiled_program(sizes, factor):
    mesh = build_mesh(MeshShape(**sizes))
    lowered = step_by_rules(mesh, RULES, batch=16, length=8)
    compiled = bytes_by_kind(compile_program(lowered, mesh.shape).collectives)
    estimated = bytes_by_kind(estimate_collectives(SPECS, RULES, mesh.shape, work(16, 8)))
    small = 1024  # Scalars of the loss.
    large = {key: n for key, n in compiled.items() if n > small}
    assert estimated.keys() == large.keys()
    for key, expected in large.items():
        assert expected / factor <= estimated[key] <= expected * factor, key


def test_sequence_parallel_norms_move_as_much_by_gathers_and_scatters():
    mesh = build_mesh(MeshShape(fsdp=4, model=2))
    sizes, rules = mesh.shape, tensor_sequence_rules()
    reduced = bytes_by_kind(estimate_collectives(SPECS, RULES, sizes, work(16, 8)))
    scattered = bytes_by_kind(estimate_collectives(SPECS, rules, sizes, work(16, 8)))
    assert scattered["all-gather", ("model",)] == scattered["reduce-scatter", ("model",)]
    assert scattered["all-gather", ("model",)] == reduced["all-reduce", ("model",)]
    compiled = bytes_by_kind(
        compile_program(step_by_rules(mesh, rules, batch=16, length=8), sizes).collectives
    )
    over_model = sum(n for (_, axes), n in compiled.items() if axes == ("model",))
    estimate = sum(n for (_, axes), n in scattered.items() if axes == ("model",))
    assert over_model / 1.6 <= estimate <= over_model * 1.6


def test_a_program_with_its_shardings_by_hand_agrees_too():
    mesh = build_mesh(MeshShape(fsdp=4, model=2))
    compiled = bytes_by_kind(compile_program(lowered_step(mesh), mesh.shape).collectives)
    assert bytes_by_kind(estimate_collectives(SPECS, RULES, mesh.shape, work(ROWS, 1))) == compiled


SIZES = dict.fromkeys(("pipeline", "data", "expert", "fsdp", "seq", "model"), 1)


def test_accumulation_repeats_everything():
    once = estimate_collectives(SPECS, RULES, {**SIZES, "fsdp": 4}, work(16, 8))
    twice = estimate_collectives(
        SPECS, RULES, {**SIZES, "fsdp": 4}, work(16, 8, accumulation_steps=2)
    )
    assert [c.times * 2 for c in once] == [c.times for c in twice]


def test_tokens_travel_to_experts_and_back_and_experts_are_not_gathered():
    experts = {
        "w": Spec((LAYERS, 4, EMBED, MLP), ("layers", "experts", "embed", "mlp")),
        "out": Spec((LAYERS, 4, MLP, EMBED), ("layers", "experts", "mlp", "embed")),
    }
    moved = bytes_by_kind(
        estimate_collectives(
            experts, RULES, {**SIZES, "expert": 4}, work(16, 8, experts_per_token=2)
        )
    )
    tokens = 16 * 8 // 4
    assert moved == {("all-to-all", ("expert",)): 2 * tokens * EMBED * 4 * 2 * LAYERS * 2}


def test_keys_and_values_travel_around_the_ring():
    keys = {"k": Spec((LAYERS, EMBED, 2, 16), ("layers", "embed", "kv_heads", "head_dim"))}
    found = estimate_collectives(keys, RULES, {**SIZES, "seq": 4}, work(2, 64))
    (permute,) = (c for c in found if c.kind == "permute")
    assert permute.bytes == 2 * (64 // 4) * 2 * 16 * 4
    assert permute.times == LAYERS * 3 * 3  # Forward once; backward itself and its gradient.


def test_each_microbatch_travels_from_stage_to_stage():
    stacked = {"up": Spec((4, EMBED, MLP), ("layers", "embed", "mlp"))}
    found = estimate_collectives(
        stacked, RULES, {**SIZES, "pipeline": 2}, work(8, 8, pipeline_microbatches=4)
    )
    (permute,) = found
    assert permute.axes == ("pipeline",)
    assert permute.times == 2 * (4 + 2 - 1) and permute.bytes == math.prod((8 // 4, 8, EMBED)) * 4
