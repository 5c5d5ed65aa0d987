"""The benchmarks compare like with like: the hand-written Llama computes what Trellax computes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from benchmarks import hand_written_llama
from benchmarks.workloads import (
    hand_written_params,
    hand_written_program,
    hand_written_shape,
    make_workload,
    trellax_program,
)

from trellax.layers import functional

RELATIVE_TOLERANCE = 2e-5  # Of float32 sums in another order, to the largest value of an array.
NUM_STEPS = 4


@pytest.fixture(scope="module")
def workload() -> Any:
    return make_workload("tiny")


def test_the_batch_has_packed_documents_and_padding(workload: Any) -> None:
    assert (workload.batch["segment_ids"] == 0).any()
    assert (workload.batch["segment_ids"] > 1).any()
    assert ((workload.batch["target_ids"] < 0) == (workload.batch["segment_ids"] == 0)).all()


@pytest.mark.parametrize("remat", [False, True])
def test_loss_and_gradients_are_equal(workload: Any, remat: bool) -> None:
    model = workload.cfg.model.instantiate()
    params = model.init(jax.random.key(1))
    shape = hand_written_shape(workload.cfg, remat=remat)

    def our_loss(params: Any) -> jax.Array:
        output, _ = functional(model, params=params, args=(workload.batch,), is_training=True)
        return output.total / output.weight

    ours, our_grads = jax.jit(jax.value_and_grad(our_loss))(params)
    grad_fn = jax.jit(jax.value_and_grad(hand_written_llama.loss_fn), static_argnums=2)
    theirs, their_grads = grad_fn(hand_written_params(params), workload.batch, shape)
    np.testing.assert_allclose(ours, theirs, rtol=RELATIVE_TOLERANCE)
    jax.tree.map(_assert_close, hand_written_params(our_grads), their_grads)


def test_losses_stay_equal_while_both_train(workload: Any) -> None:
    losses = [
        _losses(program, workload)
        for program in (trellax_program(workload), hand_written_program(workload))
    ]
    np.testing.assert_allclose(*losses, rtol=RELATIVE_TOLERANCE)
    assert losses[0][-1] < losses[0][0]


def test_both_programs_reuse_the_memory_of_the_state(workload: Any) -> None:
    """A step that copied its state would compare two copies, not two programs."""
    for program in (trellax_program(workload), hand_written_program(workload)):
        compiled = program.trace(workload.batch).lower().compile()
        memory = compiled.memory_analysis()
        state_bytes = sum(x.nbytes for x in jax.tree.leaves(program.init()))
        assert memory.alias_size_in_bytes >= 0.99 * state_bytes


def _losses(program: Any, workload: Any) -> list[float]:
    batch = jax.device_put(workload.batch)
    compiled, state, losses = program.trace(batch).lower().compile(), program.init(), []
    for _ in range(NUM_STEPS):
        state, metrics = program.step(compiled, state, batch)
        losses.append(float(metrics["loss"]))
    return losses


def _assert_close(actual: Any, expected: Any) -> None:
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, atol=RELATIVE_TOLERANCE * scale, rtol=0)
