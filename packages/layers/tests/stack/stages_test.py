"""Who does what in a pipeline, how long stages idle, and which pipelines are refused."""

from __future__ import annotations

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.calls import built, called
from tests.stack.pipelines import Model, packed_batch, pipelined, scope
from trellax.config import ConfigError, replace_config
from trellax.layers.stack import PipelinedStack, ScannedStack, bubble_fraction
from trellax.layers.stack.stages import StagePlan, even_chunks
from trellax.parallel import RunShape, mesh_refusals

PLANS = [(2, 1, 5), (4, 1, 2), (2, 2, 4), (3, 3, 6), (1, 1, 3)]


def plan_of(stages: int, repeats: int, microbatches: int, num_layers: int = 13) -> StagePlan:
    return StagePlan(stages, repeats, microbatches, even_chunks(num_layers, stages * repeats))


# ---- the plan -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", PLANS)
def test_every_microbatch_goes_through_every_chunk_once_and_in_order(sizes: Any):
    plan = plan_of(*sizes)
    index_PVK, real_PVK = plan.layer_indices()
    been: dict[int, list[int]] = {m: [] for m in range(plan.microbatches)}
    for tick in range(plan.ticks):
        for stage in range(plan.stages):
            if plan.is_real(tick - stage):
                micro, rounds = plan.microbatch_at(tick - stage)
                chunk = index_PVK[stage, rounds][real_PVK[stage, rounds]]
                been[micro].extend(chunk.tolist())
    assert all(layers == list(range(13)) for layers in been.values())


@pytest.mark.parametrize("sizes", PLANS)
def test_the_bubble_is_the_share_of_idle_ticks(sizes: Any):
    plan = plan_of(*sizes)
    work = sum(plan.is_real(t - s) for t in range(plan.ticks) for s in range(plan.stages))
    idle = 1 - work / (plan.ticks * plan.stages)
    np.testing.assert_allclose(bubble_fraction(*_of(sizes)), idle, rtol=1e-12)


def _of(sizes: tuple[int, int, int]) -> tuple[int, int, int, Any]:
    stages, repeats, microbatches = sizes
    return stages, microbatches, repeats, "circular"


@pytest.mark.parametrize("sizes", PLANS)
def test_outputs_of_ticks_are_put_in_the_order_of_layers(sizes: Any):
    plan = plan_of(*sizes)
    index_PVK, _ = plan.layer_indices()
    ticks = np.full((plan.ticks, plan.stages, index_PVK.shape[2]), -1)
    for tick in range(plan.ticks):
        for stage in range(plan.stages):
            if plan.is_real(tick - stage):
                micro, rounds = plan.microbatch_at(tick - stage)
                ticks[tick, stage] = 100 * micro + index_PVK[stage, rounds]
    found_ML = plan.by_layer(jnp.asarray(ticks))
    expected_ML = 100 * np.arange(plan.microbatches)[:, None] + np.arange(13)
    np.testing.assert_array_equal(found_ML, expected_ML)


@pytest.mark.parametrize("num_layers", [12, 13])
def test_layers_are_dealt_to_chunks(num_layers: int):
    plan = plan_of(3, 2, 3, num_layers)
    index_PVK, _ = plan.layer_indices()
    chunks = plan.chunked({"w": jnp.arange(num_layers)})["w"]
    np.testing.assert_array_equal(chunks, index_PVK)


def test_bubbles_are_those_of_the_papers():
    assert bubble_fraction(4, 8) == bubble_fraction(4, 8, schedule="1f1b") == 3 / 11
    assert bubble_fraction(4, 8, 2, "circular") == 3 / 19
    assert bubble_fraction(1, 8) == 0.0


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (2, 2, 2, "gpipe"), (2, 2, 2, "1f1b")])
def test_impossible_bubbles_are_refused(sizes: Any):
    with pytest.raises(ValueError, match=r"stages=|repeats="):
        bubble_fraction(*sizes)


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "axes", "rows", "reason"),
    [
        ({}, {"pipeline": 8}, 64, r"num_layers=4 cannot fill pipeline=8 .* use pipeline=4"),
        (
            {"schedule": "circular", "num_repeats": 2},
            {"pipeline": 4},
            64,
            r"pipeline=4 stages of num_repeats=2 chunks; use pipeline=2 or less, or fewer repeats",
        ),
        (
            {"layers_per_stage": (1, 3)},
            {"pipeline": 4},
            64,
            "has 2 entries for pipeline=4 .* give 4",
        ),
        (
            {"schedule": "circular", "num_repeats": 2, "num_microbatches": 3},
            {"pipeline": 2},
            64,
            r"groups of pipeline=2; use 2 or 4",
        ),
        ({"num_microbatches": 3}, {"pipeline": 2}, 8, "8 rows .* use num_microbatches=2"),
        (
            {"num_microbatches": 8},
            {"pipeline": 2, "data": 2, "fsdp": 2},
            16,
            "16 rows .* num_microbatches=8 of a multiple of 4 rows .* use num_microbatches=4",
        ),
        ({"num_microbatches": 2}, {"pipeline": 2, "data": 2}, 9, "9 rows .*; use 12 rows"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(
    fields: Any, axes: Any, rows: int, reason: str
):
    cfg = Model().config(pipelined(**{"num_microbatches": 4} | fields))
    (refusal,) = mesh_refusals(cfg, RunShape(axes, rows=rows))
    assert refusal.path == "decoder.stack"
    assert re.search(reason, refusal.reason)


def test_pipelines_claim_their_axis_and_others_are_refused_on_it():
    run = RunShape({"pipeline": 2}, rows=8)
    assert not mesh_refusals(Model().config(pipelined(num_microbatches=4)), run)
    assert not mesh_refusals(
        Model().config(pipelined(num_microbatches=3)), RunShape({"data": 2}, rows=8)
    )
    (refusal,) = mesh_refusals(Model().config(), run)
    assert "PipelinedStack" in refusal.reason


def test_training_on_rows_that_do_not_divide_is_an_error():
    model, params = built(Model().config(pipelined(num_microbatches=3)))
    with scope({"pipeline": 2}), pytest.raises(ValueError, match=r"decoder\.stack: 8 rows"):
        called(model, params, packed_batch(8), training=True)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"num_microbatches": 0}, "num_microbatches=0; use 1 or more"),
        ({"num_repeats": 2}, 'num_repeats=2 with schedule="1f1b"'),
        ({"layers_per_stage": (1, 2)}, r"layers_per_stage=\(1, 2\) has the sum 3"),
        ({"layers_per_stage": (0, 4)}, r"numbers of 1 or more"),
    ],
)
def test_mistakes_are_refused(fields: Any, reason: str):
    with pytest.raises(ConfigError, match=reason):
        built(Model().config(pipelined(**{"num_microbatches": 4} | fields)))


def test_it_takes_the_place_of_a_scanned_stack_with_its_fields():
    cfg = Model(num_layers=7).config()
    layer = cfg.decoder.stack.layer.clone()
    replace_config(cfg, ScannedStack, PipelinedStack.default_config().set(num_microbatches=8))
    assert (cfg.decoder.stack.num_layers, cfg.decoder.stack.layer) == (7, layer)
