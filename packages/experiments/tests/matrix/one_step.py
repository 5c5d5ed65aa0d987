"""One training step of a tiny model on a mesh: loss, gradients and new parameters.

assert_equal_steps(one_step(combination), one_device(combination))
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from tests.matrix.combinations import NUM_MICROBATCHES, Combination
from trellax.config import finalize
from trellax.layers import CausalLM, Decoder, MoELayer, ScannedStack, TransformerLayer
from trellax.parallel import MeshShape
from trellax.runtime import AdamW, ConstantSchedule, Learner, Trainer, TrainProgram
from trellax.runtime.input import ByteTokenizer, DocumentSequences, InMemoryDocuments, Input

ROWS, LENGTH, VOCAB = 16, 16, 64
RTOL, ATOL = 2e-4, 2e-5
"""float32; sums over devices are in another order."""


def tiny_trainer(*, has_experts: bool) -> Trainer.Config:
    """Returns a trainer of a 4-layer decoder with grouped-query attention, dense or with 8 experts."""
    layer = TransformerLayer.default_config()
    layer.attention.set(num_heads=8, num_kv_heads=4, head_dim=4)
    if has_experts:
        layer.feed_forward = MoELayer.default_config().set(num_experts=8, hidden_dim=16)
    else:
        layer.feed_forward.set(hidden_dim=32)
    stack = ScannedStack.default_config().set(layer=layer, num_layers=4)
    decoder = Decoder.default_config().set(dim=16, vocab_size=VOCAB, stack=stack)
    # Without momentum or clipping, the first moment that AdamW keeps is the gradient. It divides by the gradient's size;
    # its epsilon keeps rounding of tiny gradients from becoming whole steps.
    optimizer = AdamW.default_config().set(beta1=0.0, epsilon=1e-3)
    return Trainer.default_config().set(
        model=CausalLM.default_config().set(decoder=decoder),
        learner=Learner.default_config().set(
            optimizer=optimizer,
            schedule=ConstantSchedule.default_config().set(peak=1e-2),
            max_grad_norm=None,
        ),
        input=Input.default_config().set(
            dataset=DocumentSequences.default_config().set(
                documents=InMemoryDocuments.default_config().set(texts=["unread"])
            ),
            tokenizer=ByteTokenizer.default_config(),
            global_batch_size=ROWS,
            sequence_length=LENGTH,
        ),
        max_steps=1,
    )


def batch() -> dict[str, np.ndarray]:
    """Returns rows of two packed documents and some padding each, with different numbers of targets."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCAB, (ROWS, LENGTH), np.int32)
    segments = np.ones((ROWS, LENGTH), np.int32)
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    targets = np.roll(ids, -1, axis=1)
    for row, (start, end) in enumerate(zip(rng.integers(3, 12, ROWS), rng.integers(12, 17, ROWS))):
        segments[row, start:], segments[row, end:] = 2, 0
        positions[row, start:] -= start
        targets[row, [start - 1, end - 1]] = -1
        targets[row, end:] = -1
    return {
        "input_ids": ids,
        "target_ids": targets,
        "positions": positions,
        "segment_ids": segments,
    }


def one_step(combination: Combination) -> Any:
    """Returns (loss, auxiliary loss, gradients, new parameters) on the combination's mesh."""
    cfg = tiny_trainer(has_experts=combination.has_experts)
    combination.apply(cfg)
    return _step(cfg, initial_state(has_experts=combination.has_experts), None)


@functools.cache
def one_device(*, has_experts: bool, in_parts: bool) -> Any:
    """Returns the same on one device.

    A pipeline's microbatches have balance losses of their own, as those of accumulation have: `in_parts` compares with that.
    """
    cfg = tiny_trainer(has_experts=has_experts).set(mesh_shape=MeshShape())
    if in_parts:
        cfg.accumulation_steps = NUM_MICROBATCHES
    return _step(cfg, initial_state(has_experts=has_experts), jax.devices()[:1])


@functools.cache
def initial_state(*, has_experts: bool) -> Any:
    """Returns the state before the step, made on one device.

    That a mesh makes the same one is tested in the runtime; here each would compile a program for it.
    """
    cfg = tiny_trainer(has_experts=has_experts).set(mesh_shape=MeshShape())
    return jax.device_get(TrainProgram(finalize(cfg), devices=jax.devices()[:1]).init())


def _step(cfg: Trainer.Config, initial: Any, devices: Any) -> Any:
    program = TrainProgram(finalize(cfg), devices=devices)
    placed = program.placement.put_batch(batch())
    # The step takes over the arrays that it is given.
    state = jax.device_put(
        jax.tree.map(np.array, initial), program.placement.shardings(program.state_specs())
    )
    state, metrics = jax.device_get(program.compile(placed)(state, placed))
    gradients = _first_moments(state["learner"]["optimizer"])
    return metrics["loss"], metrics["auxiliary_loss"], gradients, state["params"]


def _first_moments(optimizer_state: Any) -> Any:
    has_moments = lambda node: hasattr(node, "mu")  # noqa: E731
    nodes = jax.tree.leaves(optimizer_state, is_leaf=has_moments)
    (moments,) = (node.mu for node in nodes if has_moments(node))
    return moments


def assert_equal_steps(found: Any, expected: Any) -> None:
    """Compares loss, auxiliary loss, every gradient and every new parameter."""
    names = ("loss", "auxiliary loss", "gradient of", "new value of")
    for name, a, b in zip(names, found, expected, strict=True):
        leaves = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
        for (path, x), y in leaves:
            where = f"{name} {jax.tree_util.keystr(path, simple=True, separator='.')}"
            assert np.isfinite(x).all(), where
            np.testing.assert_allclose(x, y, rtol=RTOL, atol=ATOL, err_msg=where)
