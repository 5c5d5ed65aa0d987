"""Dispatch on one device: who is served, who is dropped, and what comes back to whom."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calls import assert_trees_equal, built, called, draws
from tests.tolerances import TOLERANCE
from trellax.config import ConfigError
from trellax.layers.feed_forward import FeedForwardLayer
from trellax.layers.moe import (
    CapacityDispatch,
    DroplessDispatch,
    GatedSharedExpert,
    GroupedExperts,
    MoELayer,
)
from trellax.layers.moe.rows import Slots, collect, sorted_copies, spread
from trellax.parallel import RunShape

D, F, E = 8, 6, 4


def small_config(**fields: Any) -> Any:
    defaults = {"input_dim": D, "hidden_dim": F, "num_experts": E, "experts_per_token": 2}
    return MoELayer.default_config().set(**{**defaults, **fields})


def of_expert(params: Any, expert: int, x_D: Any) -> np.ndarray:
    up, gate, down = (np.asarray(params["experts"][n][expert]) for n in ("up", "gate", "down"))
    return (np.asarray(jax.nn.silu(x_D @ gate)) * (x_D @ up)) @ down


def token_by_token(layer: Any, params: Any, x_BSD: Any, capacity: int) -> tuple[Any, float]:
    """Reference: first choices of all tokens first; an expert serves until it is full."""
    routing, _ = called(layer.router, params["router"], x_BSD)
    x_ND = np.asarray(x_BSD).reshape(-1, D)
    experts_NC, weights_NC = (
        np.asarray(a).reshape(len(x_ND), -1) for a in (routing.experts_BSC, routing.weights_BSC)
    )
    y_ND, taken, dropped = np.zeros_like(x_ND), [0] * E, 0
    for c in range(experts_NC.shape[1]):
        for n, expert in enumerate(experts_NC[:, c]):
            if taken[expert] == capacity:
                dropped += 1
                continue
            taken[expert] += 1
            y_ND[n] += weights_NC[n, c] * of_expert(params, expert, x_ND[n])
    return y_ND.reshape(x_BSD.shape), dropped / experts_NC.size


@pytest.mark.parametrize("choices", [1, 2, 3])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25, 4.0])
def test_capacity_equals_a_loop_over_tokens(factor: float, choices: int):
    dispatch = CapacityDispatch.default_config().set(capacity_factor=factor)
    layer, params = built(small_config(dispatch=dispatch, experts_per_token=choices))
    params["router"]["weight"] = 3 * params["router"]["weight"]  # Uneven loads.
    x_BSD = draws(3, 2, 5, D)
    y_BSD, out = called(layer, params, x_BSD)
    capacity = math.ceil(factor * 10 * choices / E)
    expected, dropped = token_by_token(layer, params, x_BSD, capacity)
    np.testing.assert_allclose(y_BSD, expected, **TOLERANCE["float32"])
    np.testing.assert_allclose(out.summaries["dispatch"]["drop_fraction"], dropped, rtol=1e-6)
    assert dropped > 0 if factor == 0.5 else dropped == 0 or factor < 4.0


def test_dropless_equals_a_loop_over_tokens():
    layer, params = built(small_config())
    x_BSD = draws(3, 2, 5, D)
    y_BSD, out = called(layer, params, x_BSD)
    expected, _ = token_by_token(layer, params, x_BSD, capacity=10)
    np.testing.assert_allclose(y_BSD, expected, **TOLERANCE["float32"])
    assert out.summaries["dispatch"]["overflow_fraction"] == 0.0


def test_with_room_for_all_capacity_equals_dropless_gradients_included():
    x_BSD, results = draws(3, 2, 5, D), []
    for dispatch in (
        DroplessDispatch.default_config(),
        CapacityDispatch.default_config().set(capacity_factor=E / 2),
    ):
        layer, params = built(small_config(dispatch=dispatch))
        loss = lambda p, x, layer=layer: jnp.sin(called(layer, p, x)[0]).sum()
        results.append(jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x_BSD))
    assert_trees_equal(*results, **TOLERANCE["float32"])


class RecordingExperts(GroupedExperts):
    """Returns rows as they are, and remembers the sizes."""

    seen: list[np.ndarray] = []

    def forward(self, x_MD: Any, group_sizes_E: Any) -> Any:
        self.seen.append(np.asarray(group_sizes_E))
        return x_MD


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    num_tokens=st.sampled_from([1, 5, 12]),  # Other shapes are other programs to compile.
    choices=st.sampled_from([1, 3, E]),
    factor=st.sampled_from([0.3, 1.0, 2.0, 100.0]),
)
def test_rows_of_an_expert_never_exceed_its_capacity(
    seed: int, num_tokens: int, choices: int, factor: float
):
    dispatch = CapacityDispatch.default_config().set(capacity_factor=factor)
    experts = RecordingExperts.default_config()
    layer, params = built(
        small_config(dispatch=dispatch, experts=experts, experts_per_token=choices)
    )
    RecordingExperts.seen.clear()
    called(layer, params, draws(seed, 1, num_tokens, D))
    (sizes,) = RecordingExperts.seen
    assert (sizes <= math.ceil(factor * num_tokens * choices / E)).all()
    assert (sizes <= num_tokens).all()


@settings(max_examples=30, deadline=None)
@given(data=st.data(), num_tokens=st.integers(1, 7), choices=st.integers(1, 3), first=st.booleans())
def test_every_choice_of_a_token_comes_back_to_it(
    data: Any, num_tokens: int, choices: int, first: bool
):
    """Experts that mark rows with their number; E stands for no expert."""
    pick = st.permutations(range(E + 1)).map(lambda p: p[:choices])
    experts_NC = np.array([data.draw(pick) for _ in range(num_tokens)])
    order = sorted_copies(jnp.asarray(experts_NC), E, first_choices_first=first)
    slots = Slots(order.copy_M, order.place_NC)
    x_ND = 10.0 * (1 + jnp.arange(num_tokens))[:, None]
    rows_RD = spread(x_ND, slots)
    expert_R = np.sort(experts_NC.ravel())
    np.testing.assert_array_equal(order.sizes_E, np.bincount(expert_R, minlength=E + 1)[:E])
    marked_NC = collect(rows_RD + expert_R[:, None], slots)[..., 0]
    np.testing.assert_array_equal(marked_NC, 10 * (1 + np.arange(num_tokens))[:, None] + experts_NC)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_gradients_of_moves_are_those_of_plain_indexing(seed: int):
    rng = np.random.default_rng(seed)
    copy_R = np.full(9, 8)  # 4 tokens, 2 copies, 9 slots, of which 5 are used.
    copies, places = rng.permutation(8)[:5], rng.permutation(9)[:5]
    copy_R[places] = copies
    slot_M = np.full(8, 9)
    slot_M[copies] = places
    slots = Slots(jnp.asarray(copy_R), jnp.asarray(slot_M.reshape(4, 2)))
    x_ND, rows_RD = draws(seed, 4, 3), draws(seed + 1, 9, 3)
    padded = lambda x: jnp.concatenate([x, jnp.zeros((1, 3))])
    plain_spread = lambda x: padded(x)[slots.copy_R // 2]
    plain_collect = lambda x: padded(x)[slots.slot_NC]
    ours = lambda fn: lambda x: fn(x, slots)
    graded = lambda fn, x: jax.value_and_grad(lambda x: jnp.sin(fn(x)).sum())(x)
    for fn, plain, x in ((spread, plain_spread, x_ND), (collect, plain_collect, rows_RD)):
        assert_trees_equal(graded(ours(fn), x), graded(plain, x), **TOLERANCE["float32"])


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 99))
def test_the_order_of_tokens_does_not_matter(seed: int):
    layer, params = built(small_config())
    x_BSD = draws(seed, 1, 9, D)
    order = np.random.default_rng(seed).permutation(9)
    y_BSD, _ = called(layer, params, x_BSD)
    permuted, _ = called(layer, params, x_BSD[:, order])
    np.testing.assert_allclose(permuted, y_BSD[:, order], **TOLERANCE["float32"])


def test_a_gated_shared_expert_is_weighted_by_each_token():
    shared = GatedSharedExpert.default_config()
    shared.expert.hidden_dim = F
    layer, params = built(small_config(shared_expert=shared))
    x_BSD = draws(1, 2, 5, D)
    y_BSD, _ = called(layer, params, x_BSD)
    routed, _ = called(built(small_config())[0], params, x_BSD)
    ffn = FeedForwardLayer.default_config().set(input_dim=D, hidden_dim=F)
    alone, _ = called(ffn.instantiate(name="f"), params["shared_expert"]["expert"], x_BSD)
    gate_BS1 = jax.nn.sigmoid(x_BSD @ params["shared_expert"]["gate"]["weight"])
    np.testing.assert_allclose(y_BSD, routed + gate_BS1 * alone, **TOLERANCE["float32"])
    one_more = 2 * D + 2 * 3 * D * F
    flops = layer.forward_flops_per_token(9)
    assert flops == 2 * D * E + 2 * 2 * 3 * D * F + one_more


class LoudExperts(GroupedExperts):
    """Experts that report."""

    def forward(self, x_MD: Any, group_sizes_E: Any) -> Any:
        self.add_summary("size", group_sizes_E.max())
        return x_MD


def test_experts_that_report_are_refused():
    layer, params = built(small_config(experts=LoudExperts.default_config()))
    with pytest.raises(ValueError, match="experts adds losses, summaries"):
        called(layer, params, draws(1, 2, 5, D))


@pytest.mark.parametrize(
    ("dispatch", "message"),
    [
        (CapacityDispatch.default_config().set(capacity_factor=0.0), "1.25 is common"),
        (DroplessDispatch.default_config().set(buffer_factor=0.5), "no room for even loads"),
    ],
)
def test_factors_that_leave_no_room_are_refused(dispatch: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        built(small_config(dispatch=dispatch))


def test_meshes_that_do_not_divide_the_experts_are_refused_with_the_nearest():
    cfg = small_config(num_experts=12)
    assert cfg.mesh_refusal(RunShape({"expert": 4})) is None
    assert cfg.mesh_refusal(RunShape({"expert": 8})) == (
        "num_experts=12 experts do not divide among expert=8 devices; the nearest mesh has expert=6."
    )
