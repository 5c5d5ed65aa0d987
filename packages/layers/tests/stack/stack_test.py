"""Scanned and unrolled stacks are the same model: parameters, results, gradients, randomness, outputs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.calls import assert_trees_equal, built, called, draws
from tests.tolerances import TOLERANCE
from trellax.config import REQUIRED, ConfigError, Required, replace_config
from trellax.layers.base import BaseLayer, is_spec
from trellax.layers.dropout import Dropout
from trellax.layers.linear import Linear
from trellax.layers.module import Module, WeightedScalar, total_loss
from trellax.layers.stack import RepeatedStack, ScannedStack, SequentialStack, UnrolledStack
from trellax.parallel import save_names

D, L = 6, 3


class Block(BaseLayer):
    """Residual sine of a linear map; uses everything that a call can use."""

    class Config(BaseLayer.Config):
        input_dim: Required[int] = REQUIRED
        linear: BaseLayer.Config = Linear.default_config().set(bias=True)
        dropout: BaseLayer.Config = Dropout.default_config().set(rate=0.3)

        def derive(self) -> None:
            self.provide(self.linear, input_dim=self.input_dim, output_dim=self.input_dim)

    def __init__(self, cfg: Any, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        self.add_child("linear", cfg.linear)
        self.add_child("dropout", cfg.dropout)

    def init_state(self, *, batch_size: int, max_length: int, pages: Any = None) -> dict[str, Any]:
        return {"sum": jnp.zeros((batch_size, D))}

    def forward(self, x: Any, shift: Any = 0.0) -> Any:
        hidden = self.tag(jnp.sin(self.linear(x)), "hidden")
        self.add_summary("mean", WeightedScalar(hidden.mean(), jnp.float32(hidden.size)))
        self.add_module_output("hidden", hidden)
        self.add_loss("size", jnp.mean(hidden**2))
        if self.state is not None:
            self.add_state_update("sum", self.state["sum"] + hidden.sum(axis=1))
        return x + self.dropout(hidden) + shift


def stack_config(stack: Any, **block: Any) -> Any:
    layer = Block.default_config().set(**block)
    return stack.default_config().set(layer=layer, num_layers=L, input_dim=D)


def everything_of(cfg: Any, *, training: bool = True) -> Any:
    """Returns loss, gradients, result and outputs of a call with state."""
    layer, params = built(cfg)
    state = layer.init_state(batch_size=2, max_length=4)

    def loss(params: Any, x: Any) -> Any:
        y, out = called(layer, params, x, 0.5, training=training, state=state)
        return jnp.sum(y**2) + total_loss(out), (y, _with_stacked_states(out))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
        params, draws(1, 2, 4, D)
    )


def _with_stacked_states(out: Any) -> Any:
    """Unrolled stacks keep the states of layers apart, which is no difference here."""
    states = out.state_updates.get("layer")
    if isinstance(states, tuple):
        out.state_updates["layer"] = jax.tree.map(lambda *xs: jnp.stack(xs), *states)
    return out


# ---- scanned and unrolled -----------------------------------------------------------------------


def test_first_values_are_the_same_bits_in_the_same_tree():
    _, scanned = built(stack_config(ScannedStack))
    _, unrolled = built(stack_config(UnrolledStack))
    assert_trees_equal(scanned, unrolled)
    weight = np.asarray(scanned["layer"]["linear"]["weight"])
    assert weight.shape == (L, D, D)
    assert not np.array_equal(weight[0], weight[1])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("remat", [None, save_names(), save_names("hidden")])
def test_scanned_and_unrolled_agree_in_everything(remat: Any, training: bool):
    scanned = everything_of(stack_config(ScannedStack, remat=remat), training=training)
    unrolled = everything_of(stack_config(UnrolledStack, remat=remat), training=training)
    plain = everything_of(stack_config(ScannedStack), training=training)
    assert_trees_equal(scanned, unrolled, **TOLERANCE["float32"])
    assert_trees_equal(scanned, plain, **TOLERANCE["float32"])


@pytest.mark.parametrize("unroll", [2, L])
def test_a_partly_unrolled_loop_agrees_too(unroll: int):
    plain = everything_of(stack_config(ScannedStack))
    cfg = stack_config(ScannedStack).set(unroll=unroll)
    assert_trees_equal(plain, everything_of(cfg), **TOLERANCE["float32"])


def test_one_replaces_the_other():
    cfg = stack_config(UnrolledStack)
    holder = SequentialStack.default_config().set(layers=[cfg], input_dim=D)
    assert replace_config(holder, RepeatedStack, ScannedStack.default_config()) == ["layers[0]"]
    assert holder.layers[0] == stack_config(ScannedStack)


def test_layers_equal_the_layer_called_in_turn():
    layer, params = built(stack_config(ScannedStack))
    block = Block.default_config().set(input_dim=D).instantiate(name="layer")
    x = expected = draws(1, 2, 4, D)
    for i in range(L):
        own = jax.tree.map(lambda p, i=i: p[i], params["layer"])
        expected, _ = called(block, own, expected, 0.5)
    y, _ = called(layer, params, x, 0.5)
    np.testing.assert_allclose(y, expected, **TOLERANCE["float32"])


def test_each_layer_drops_other_elements():
    cfg = stack_config(ScannedStack)
    cfg.layer.dropout.set(rate=0.5)
    layer, params = built(cfg)
    params = jax.tree.map(jnp.zeros_like, params)
    params["layer"]["linear"]["bias"] = jnp.array([1.0, 10.0, 100.0])[:, None] * jnp.ones((L, D))
    y, _ = called(layer, params, jnp.zeros((4, 50, D)), training=True)
    assert len(np.unique(np.asarray(y).round(3))) == 2**L


# ---- outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [ScannedStack, UnrolledStack])
def test_outputs_are_a_summary_a_layer_a_summed_loss_and_stacked_arrays(stack: Any):
    (_, (_, out)), _ = everything_of(stack_config(stack))
    assert set(out.summaries) == {"layer0", "layer1", "layer2"}
    hidden = out.module_outputs["layer"]["hidden"]
    assert hidden.shape == (L, 2, 4, D)
    for i in range(L):
        mean, weight = out.summaries[f"layer{i}"]["mean"]
        np.testing.assert_allclose(mean, hidden[i].mean(), rtol=1e-5, atol=1e-6)
        assert weight == 2 * 4 * D
    np.testing.assert_allclose(out.losses["layer"]["size"], L * (hidden**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        out.state_updates["layer"]["sum"], hidden.sum(axis=2), **TOLERANCE["float32"]
    )


def test_state_and_specs_are_stacked():
    layer, params = built(stack_config(ScannedStack))
    state = layer.init_state(batch_size=2, max_length=4)
    assert state["layer"]["sum"].shape == (L, 2, D)
    specs = layer.all_parameter_specs()
    shapes = jax.tree.map(lambda s: s.shape, specs, is_leaf=is_spec)
    assert shapes == jax.tree.map(jnp.shape, params)
    axes = jax.tree.leaves(specs, is_leaf=is_spec)
    assert all(spec.logical_axes[0] == "layers" for spec in axes)
    assert layer.forward_flops_per_token(4) == L * 2 * D * D


def test_the_scan_is_traced_once_and_carries_no_keys_that_nobody_asks_for():
    cfg = stack_config(ScannedStack)
    cfg.layer.dropout.set(rate=0.0)
    layer, params = built(cfg)
    fn = lambda p: called(layer, p, jnp.ones((2, 4, D)), training=True)[0]
    text = str(jax.make_jaxpr(fn)(params))
    assert text.count("sin ") == 1
    assert "fold_in" not in text


class Lender(BaseLayer):
    """Shares a linear map with the layers of its stack."""

    class Config(BaseLayer.Config):
        linear: BaseLayer.Config = Linear.default_config().set(input_dim=D, output_dim=D)
        stack: BaseLayer.Config = ScannedStack.default_config()

    def __init__(self, cfg: Any, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        self.share("lent", self.add_child("linear", cfg.linear))
        self.add_child("stack", cfg.stack)

    def forward(self, x: Any) -> Any:
        return self.stack(x)


class Borrower(BaseLayer):
    """Uses what `Lender` shares."""

    class Config(BaseLayer.Config):
        input_dim: int | None = None

    def forward(self, x: Any) -> Any:
        return jnp.tanh(self.shared("lent")(x))


@pytest.mark.parametrize("stack", [ScannedStack, UnrolledStack])
@pytest.mark.parametrize("remat", [None, save_names()])
def test_layers_in_a_loop_find_shared_modules(stack: Any, remat: Any):
    layers = Borrower.default_config().set(remat=remat)
    repeated = stack.default_config().set(layer=layers, num_layers=L, input_dim=D)
    layer, params = built(Lender.default_config().set(stack=repeated))
    assert set(params) == {"linear"}
    x = expected = draws(1, 2, D)
    for _ in range(L):
        expected = jnp.tanh(expected @ params["linear"]["weight"])
    np.testing.assert_allclose(called(layer, params, x)[0], expected, **TOLERANCE["float32"])
    grads = jax.grad(lambda p: called(layer, p, x, training=True)[0].sum())(params)
    assert np.abs(grads["linear"]["weight"]).sum() > 0


# ---- sequences and mistakes ---------------------------------------------------------------------


def test_a_sequence_of_different_layers_can_be_the_layer_of_a_scan():
    shifted = Block.default_config().set(remat=save_names())
    pattern = SequentialStack.default_config().set(layers=[Block.default_config(), shifted])
    layer, params = built(
        ScannedStack.default_config().set(layer=pattern, num_layers=2, input_dim=D)
    )
    assert params["layer"]["layer0"]["linear"]["weight"].shape == (2, D, D)
    y, out = called(layer, params, draws(1, 2, 4, D), 0.5)
    assert y.shape == (2, 4, D) and set(out.summaries) == {"layer0", "layer1"}
    assert set(out.summaries["layer0"]) == {"layer0", "layer1"}


def test_mistakes_name_the_field():
    with pytest.raises(ConfigError, match="num_layers=0; a stack needs at least 1"):
        built(stack_config(ScannedStack).set(num_layers=0))
    with pytest.raises(ConfigError, match="layer"):
        built(ScannedStack.default_config().set(num_layers=2, input_dim=D))
