"""Parameter trees, initial values, and remat that changes nothing but memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calls import assert_trees_equal, built, called, draws
from tests.tolerances import TOLERANCE
from trellax.layers.base import (
    BaseLayer,
    ConstantInitializer,
    NormalInitializer,
    ParameterSpec,
    VarianceScalingInitializer,
    count_parameters,
    is_spec,
)
from trellax.layers.dropout import Dropout
from trellax.layers.linear import Linear
from trellax.layers.module import total_loss
from trellax.parallel import save_names


class Block(BaseLayer):
    """Two linear maps around a sine, with dropout, a loss, a summary and a state entry."""

    class Config(BaseLayer.Config):
        first: BaseLayer.Config = Linear.default_config().set(input_dim=6, output_dim=6)
        second: BaseLayer.Config = Linear.default_config().set(input_dim=6, output_dim=6)
        dropout: BaseLayer.Config = Dropout.default_config().set(rate=0.5)

    def __init__(self, cfg: Any, *, name: str = "root", parent: Any = None):
        super().__init__(cfg, name=name, parent=parent)
        for child in ("first", "second", "dropout"):
            self.add_child(child, getattr(cfg, child))

    def forward(self, x: Any, scale: float = 1.0) -> Any:
        hidden = self.tag(jnp.sin(self.first(x)), "hidden")
        self.add_loss("size", jnp.mean(hidden**2))
        self.add_summary("size", jnp.mean(hidden))
        return self.dropout(self.second(hidden)) * scale


def grads_of(cfg: Any) -> Any:
    layer, params = built(cfg)

    def loss(params: Any) -> Any:
        y, out = called(layer, params, draws(1, 3, 6), 2.0, training=True)
        return jnp.sum(y**2) + total_loss(out), (y, out.summaries)

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.parametrize("policy", [save_names(), save_names("hidden")], ids=["nothing", "hidden"])
def test_remat_changes_no_result_no_gradient_and_no_dropout(policy: Any):
    (loss, aux), grads = grads_of(Block.default_config())
    (remat_loss, remat_aux), remat_grads = grads_of(Block.default_config().set(remat=policy))
    np.testing.assert_allclose(loss, remat_loss, **TOLERANCE["float32"])
    assert_trees_equal(aux, remat_aux, **TOLERANCE["float32"])
    assert_trees_equal(grads, remat_grads, **TOLERANCE["float32"])


def jaxpr_of(cfg: Any, training: bool = True, **options: Any) -> str:
    layer, params = built(cfg)
    fn = lambda p: called(layer, p, draws(1, 3, 6), training=training, **options)[0].sum()
    return str(jax.make_jaxpr(jax.grad(fn))(params))


def test_remat_acts_in_training_alone():
    cfg = Block.default_config().set(remat=save_names())
    assert "prevent_cse" in jaxpr_of(cfg)
    assert "prevent_cse" not in jaxpr_of(cfg, training=False)


def test_remat_leaves_the_prevention_of_merging_to_a_loop():
    cfg = Block.default_config().set(remat=save_names())
    assert "prevent_cse=True" in jaxpr_of(cfg)
    assert "prevent_cse=False" in jaxpr_of(cfg, in_loop=True)


def test_parameters_have_the_tree_shapes_and_types_of_their_specs():
    cfg = Block.default_config()
    cfg.first.set(bias=True, param_dtype="bfloat16")
    layer, params = built(cfg)
    specs = layer.all_parameter_specs()
    described = jax.tree.map(lambda s: (s.shape, s.dtype), specs, is_leaf=is_spec)
    assert described == {
        "first": {"weight": ((6, 6), "bfloat16"), "bias": ((6,), "bfloat16")},
        "second": {"weight": ((6, 6), "float32")},
    }
    actual = jax.tree.map(lambda x: (x.shape, str(x.dtype)), params)
    assert actual == described
    assert count_parameters(specs) == 6 * 6 * 2 + 6


def test_an_added_layer_changes_no_other_layers_first_values():
    class Extended(Block):
        class Config(Block.Config):
            extra: BaseLayer.Config = Linear.default_config().set(input_dim=2, output_dim=2)

        def __init__(self, cfg: Any, **runtime: Any):
            super().__init__(cfg, **runtime)
            self.add_child("extra", cfg.extra)

    _, params = built(Block.default_config())
    _, extended = built(Extended.default_config())
    del extended["extra"]
    assert_trees_equal(params, extended)


def test_a_layer_without_parameters_or_state_is_absent():
    layer, params = built(Block.default_config())
    assert "dropout" not in params
    assert layer.init_state(batch_size=2, max_length=4) == {}


# ---- initializers -------------------------------------------------------------------------------


def sampled(
    initializer: Any, shape: tuple[int, ...], fan_in: Any = (0,), fan_out: Any = (1,)
) -> Any:
    spec = ParameterSpec(
        shape, "float32", initializer.instantiate(), (None,) * len(shape), fan_in, fan_out
    )
    return np.asarray(spec.init(jax.random.key(0)))


@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
@pytest.mark.parametrize(("fan", "size"), [("in", 400), ("out", 100), ("average", 250)])
def test_variance_scaling_has_the_variance_it_promises(distribution: str, fan: str, size: int):
    cfg = VarianceScalingInitializer.default_config()
    values = sampled(cfg.set(scale=2.0, fan=fan, distribution=distribution), (400, 100))
    np.testing.assert_allclose(values.var(), 2.0 / size, rtol=0.03)
    np.testing.assert_allclose(values.mean(), 0.0, atol=5e-3)


def test_constant_and_normal_initializers():
    assert (sampled(ConstantInitializer.default_config().set(value=3.0), (2, 3)) == 3.0).all()
    values = sampled(NormalInitializer.default_config().set(stddev=0.5), (300, 300))
    np.testing.assert_allclose(values.std(), 0.5, rtol=0.02)


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), num=st.integers(1, 4))
def test_a_stacked_spec_gains_an_axis_and_keeps_its_fans(shape: list[int], num: int):
    axes = tuple(f"axis{i}" for i in range(len(shape)))
    initializer = ConstantInitializer.default_config().instantiate()
    spec = ParameterSpec(tuple(shape), "float32", initializer, axes, (0,), (len(shape) - 1,))
    stacked = spec.stacked(num)
    assert stacked.shape == (num, *shape) and stacked.logical_axes == ("layers", *axes)
    assert stacked.size == num * spec.size
    assert [stacked.shape[d] for d in stacked.fan_in] == [shape[d] for d in spec.fan_in]
