"""The language model equals a Llama in plain JAX, and its options do what they say."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.calls import assert_trees_equal, built, called, draws
from tests.causal_lm.models import (
    D,
    F,
    L,
    S,
    V,
    plain_logits,
    plain_losses,
    small_batch,
    small_config,
)
from tests.tolerances import TOLERANCE
from trellax.config import ConfigConflictError, MissingRequiredError
from trellax.layers.attention import TokenInfo
from trellax.layers.base import count_parameters
from trellax.layers.causal_lm import CausalLM, CrossEntropyLoss
from trellax.layers.embedding import LearnedPositionEmbedding, Unembedding
from trellax.layers.stack import ScannedStack, UnrolledStack
from trellax.parallel import save_names


def loss_of(model: Any, **options: Any) -> Any:
    """Returns a jitted function from (params, batch) to ((loss, gradients), collection)."""

    def loss(params: Any, batch: Any) -> Any:
        output, collection = called(model, params, batch, **options)
        return output.total, (output, collection)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


# ---- parity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [ScannedStack, UnrolledStack])
@pytest.mark.parametrize("remat", [None, save_names()], ids=["keep", "remat"])
def test_loss_and_gradients_equal_plain_jax(stack: Any, remat: Any):
    cfg = small_config(stack)
    cfg.decoder.stack.layer.remat = remat
    model, params = built(cfg)
    batch = small_batch()
    (total, (output, _)), grads = loss_of(model, training=True)(params, batch)
    plain = lambda p: plain_losses(p, batch)[0].sum()
    expected, expected_grads = jax.jit(jax.value_and_grad(plain))(params)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert output.weight == 2 * (S - 1)
    assert_trees_equal(grads, expected_grads, rtol=1e-4, atol=1e-4)


def test_logits_equal_plain_jax():
    model, params = built(small_config())
    ids = small_batch()["input_ids"]
    logits, _ = called(model, params, ids, TokenInfo(), method="logits")
    np.testing.assert_allclose(logits, plain_logits(params, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk_size", [1, 5, 24])
@pytest.mark.parametrize("axes", ["DV", "VD"])
def test_a_chunked_loss_is_the_same_loss(chunk_size: int, axes: Any):
    cfg = CrossEntropyLoss.default_config().set(z_loss_scale=0.1)
    hidden_BSD = draws(1, 2, S, D)
    weight = draws(2, *(D if axis == "D" else V for axis in axes))

    def loss(layer: Any, hidden_BSD: Any, weight: Any) -> Any:
        targets_BS = small_batch()["target_ids"]
        unembedding = Unembedding(weight, axes)
        output, collection = called(
            layer, {}, hidden_BSD, unembedding, targets_BS, kwargs={"soft_cap": 3.0}
        )
        return output.total, (output, collection)

    dense, _ = built(cfg.clone(implementation="dense"))
    chunked, _ = built(cfg.clone(implementation="chunked", chunk_size=chunk_size))
    results = [
        jax.jit(jax.value_and_grad(functools.partial(loss, layer), argnums=(0, 1), has_aux=True))(
            hidden_BSD, weight
        )
        for layer in (dense, chunked)
    ]
    assert_trees_equal(*results, **TOLERANCE["float32"])


# ---- options ------------------------------------------------------------------------------------


def test_summaries_tell_cross_entropy_and_z_loss_apart():
    cfg = small_config()
    cfg.loss.z_loss_scale = 0.1
    model, params = built(cfg)
    output, collection = called(model, params, small_batch())
    losses, lse = plain_losses(params, small_batch())
    z_loss = 0.1 * (lse[:, :-1] ** 2).sum()
    summaries = collection.summaries["loss"]
    np.testing.assert_allclose(output.total, losses.sum() + z_loss, rtol=1e-5)
    np.testing.assert_allclose(summaries["cross_entropy"].mean, losses.sum() / 22, rtol=1e-5)
    np.testing.assert_allclose(summaries["z_loss"].mean, z_loss / 22, rtol=1e-5)
    assert summaries["cross_entropy"].weight == summaries["z_loss"].weight == 22
    _, plain = called(built(small_config())[0], params, small_batch())
    assert not plain.summaries


def test_a_batch_without_targets_costs_nothing():
    model, params = built(small_config())
    batch = small_batch() | {"target_ids": jnp.full((2, S), -1)}
    (total, (output, _)), grads = loss_of(model)(params, batch)
    assert total == output.weight == 0.0
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_tied_embeddings_use_the_table_as_head():
    model, params = built(small_config(lm_head=None))
    decoder = params["decoder"]
    assert "lm_head" not in decoder
    head = {"weight": decoder["embedding"]["weight"].T}
    untied = {"decoder": decoder | {"lm_head": head}}
    ids = small_batch()["input_ids"]
    logits, _ = called(model, params, ids, TokenInfo(), method="logits")
    np.testing.assert_allclose(logits, plain_logits(untied, ids), rtol=1e-4, atol=1e-4)
    output, _ = called(model, params, small_batch())
    np.testing.assert_allclose(
        output.total, plain_losses(untied, small_batch())[0].sum(), rtol=1e-5
    )


def test_packed_documents_do_not_see_each_other():
    model, params = built(small_config())
    batch = small_batch()
    half = S // 2
    packed = batch | {
        "positions": jnp.tile(jnp.arange(half), (2, 2)),
        "segment_ids": jnp.repeat(jnp.array([[1, 2]]), half, axis=1).repeat(2, axis=0),
    }
    logits = lambda ids, *tokens: called(model, params, ids, TokenInfo(*tokens), method="logits")[0]
    apart = [logits(ids) for ids in jnp.split(batch["input_ids"], 2, axis=1)]
    together = logits(batch["input_ids"], packed["positions"], packed["segment_ids"])
    np.testing.assert_allclose(together, jnp.concatenate(apart, axis=1), **TOLERANCE["float32"])
    assert np.isfinite(called(model, params, packed)[0].total)


def test_given_positions_are_those_that_are_assumed():
    model, params = built(small_config())
    batch = small_batch()
    given = batch | {"positions": jnp.tile(jnp.arange(S), (2, 1))}
    assumed, _ = called(model, params, batch)
    np.testing.assert_allclose(called(model, params, given)[0].total, assumed.total, rtol=1e-6)


def test_positions_can_be_added_to_the_input():
    positions = LearnedPositionEmbedding.default_config().set(max_length=S)
    model, params = built(small_config(position_embedding=positions))
    assert params["decoder"]["position_embedding"]["weight"].shape == (S, D)
    batch = small_batch()
    given = batch | {"positions": jnp.tile(jnp.arange(S), (2, 1))}
    reversed_ = batch | {"positions": jnp.tile(jnp.arange(S)[::-1], (2, 1))}
    totals = [called(model, params, b)[0].total for b in (batch, given, reversed_)]
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-6)
    assert abs(totals[0] - totals[2]) > 1e-4


def test_the_soft_cap_bounds_logits_and_enters_the_loss():
    model, params = built(small_config(logit_soft_cap=0.5))
    ids = small_batch()["input_ids"]
    logits, _ = called(model, params, ids, TokenInfo(), method="logits")
    expected = 0.5 * np.tanh(plain_logits(params, ids) / 0.5)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    output, _ = called(model, params, small_batch())
    assert abs(output.total / output.weight - np.log(V)) < 1.0


@pytest.mark.parametrize("stack", [ScannedStack, UnrolledStack])
def test_low_precision_parameters_give_a_float32_loss_nearby(stack: Any):
    model, params = built(small_config(stack))
    low = jax.tree.map(lambda p: p.astype("bfloat16"), params)
    (total, _), grads = loss_of(model, training=True)(low, small_batch())
    assert total.dtype == jnp.float32
    assert all(g.dtype == jnp.bfloat16 for g in jax.tree.leaves(grads))
    np.testing.assert_allclose(total, plain_losses(params, small_batch())[0].sum(), rtol=2e-2)


# ---- structure ----------------------------------------------------------------------------------


def test_parameters_and_flops_are_those_of_the_paper():
    model = small_config().instantiate()
    per_layer = 4 * D * D + 3 * D * F
    assert count_parameters(model.all_parameter_specs()) == L * (per_layer + 2 * D) + D + 2 * V * D
    scores = model.forward_flops_per_token(S) - 2 * (L * per_layer + D * V)
    assert scores == L * 4 * S * D
    tied = small_config(lm_head=None).instantiate()
    assert tied.forward_flops_per_token(S) == model.forward_flops_per_token(S)


def test_paths_of_parameters_are_paths_of_the_config():
    cfg = small_config()
    for path, _ in jax.tree.leaves_with_path(cfg.instantiate().init(jax.random.key(0))):
        cfg.at(".".join(step.key for step in path[:-1]))  # Raises where there is no such node.


def test_mistakes_are_refused():
    with pytest.raises(MissingRequiredError, match="vocab_size"):
        CausalLM.default_config().instantiate()
    cfg = small_config()
    cfg.decoder.output_norm.input_dim = D + 1
    with pytest.raises(ConfigConflictError, match=r"output_norm\.input_dim"):
        cfg.instantiate()
