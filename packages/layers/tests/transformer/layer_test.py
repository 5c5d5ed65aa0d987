"""Transformer layers equal their papers' formulas, written out with the same sublayers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trellax.config import ConfigError, replace_config
from trellax.layers.attention import Attention, TokenInfo
from trellax.layers.dropout import Dropout
from trellax.layers.feed_forward import FeedForwardLayer
from trellax.layers.module import functional
from trellax.layers.moe import MoELayer
from trellax.layers.norm import LayerNorm, RMSNorm
from trellax.layers.stack import ScannedStack, UnrolledStack
from trellax.layers.transformer import ParallelTransformerLayer, TransformerLayer
from trellax.parallel import nothing_saveable, tagged_names

B, S, D = 2, 5, 16


def small_config(component: Any = TransformerLayer, **fields: Any) -> Any:
    cfg = component.default_config().set(input_dim=D, **fields)
    cfg.attention.set(num_heads=4, num_kv_heads=2)
    cfg.feed_forward.set(hidden_dim=24)
    return cfg


def built(cfg: Any) -> tuple[Any, Any]:
    """Returns (layer, parameters), each norm scale away from one."""
    layer = cfg.instantiate(name="layer")
    params = layer.init(jax.random.key(0))
    for name, p in params.items():
        if "norm" in name:
            p["scale"] = 1.0 + 0.3 * jax.random.normal(jax.random.key(len(name)), (D,))
    return layer, params


def called(layer: Any, params: Any, x: Any, *args: Any, **options: Any) -> Any:
    options = {"is_training": True} | options
    return functional(layer, params=params, args=(x, *args), **options)[0]


@pytest.fixture(name="x_BSD")
def inputs() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (B, S, D))


NORM = RMSNorm.default_config()
STRUCTURES = {
    "pre": ({}, lambda x, n, f: x + f(n["norm"](x))),
    "post": (
        {"norm": None, "residual_norm": NORM},
        lambda x, n, f: n["residual_norm"](x + f(x)),
    ),
    "sandwich": (
        {"output_norm": NORM},
        lambda x, n, f: x + n["output_norm"](f(n["norm"](x))),
    ),
    "olmo2": (
        {"norm": None, "output_norm": NORM},
        lambda x, n, f: x + n["output_norm"](f(x)),
    ),
    "none": ({"norm": None}, lambda x, n, f: x + f(x)),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_equal_their_formulas(structure, x_BSD):
    slots, formula = STRUCTURES[structure]
    names = ("attention", "feed_forward")
    fields = {f"{name}_{slot}": value for name in names for slot, value in slots.items()}
    layer, params = built(small_config(**fields))
    expected_BSD = x_BSD
    for name, args in zip(names, ((TokenInfo(),), ())):
        sublayer = lambda x, name=name, args=args: called(
            layer.children[name], params[name], x, *args
        )
        norms = {
            slot: lambda x, key=f"{name}_{slot}": called(layer.children[key], params[key], x)
            for slot in ("norm", "output_norm", "residual_norm")
        }
        expected_BSD = formula(expected_BSD, norms, sublayer)
    got_BSD = called(layer, params, x_BSD, TokenInfo())
    np.testing.assert_allclose(got_BSD, expected_BSD, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("own_norm", [False, True], ids=["gpt_j", "gpt_neox"])
def test_parallel_layer_equals_its_formula(own_norm, x_BSD):
    fields = {"feed_forward_norm": LayerNorm.default_config()} if own_norm else {}
    layer, params = built(small_config(ParallelTransformerLayer, **fields))
    assert ("feed_forward_norm" in params) == own_norm

    def child(name: str, x: Any, *args: Any) -> Any:
        return called(layer.children[name], params[name], x, *args)

    attention = child("attention", child("attention_norm", x_BSD), TokenInfo())
    read = child("feed_forward_norm" if own_norm else "attention_norm", x_BSD)
    expected_BSD = x_BSD + attention + child("feed_forward", read)
    got_BSD = called(layer, params, x_BSD, TokenInfo())
    np.testing.assert_allclose(got_BSD, expected_BSD, rtol=1e-6, atol=1e-6)


def test_sublayers_learn_of_documents(x_BSD):
    layer, params = built(small_config())
    tokens = TokenInfo(jnp.array([[0, 1, 0, 1, 2]] * B), jnp.array([[1, 1, 2, 2, 2]] * B))
    got_BSD = called(layer, params, x_BSD, tokens)
    alone_BSD = called(layer, params, x_BSD[:, 2:], TokenInfo())
    np.testing.assert_allclose(got_BSD[:, 2:], alone_BSD, rtol=1e-5, atol=1e-5)


def test_parameters_are_called_as_in_the_config():
    layer = small_config().instantiate(name="layer")
    specs = layer.all_parameter_specs()
    assert set(specs) == {"attention", "attention_norm", "feed_forward", "feed_forward_norm"}
    assert specs["attention_norm"]["scale"].shape == (D,)


def test_flops_are_those_of_the_sublayers():
    layer = small_config().instantiate(name="layer")
    sublayers = (layer.attention, layer.feed_forward)
    expected = sum(child.forward_flops_per_token(64) for child in sublayers)
    assert layer.forward_flops_per_token(64) == expected > 2 * 3 * D * 24


@pytest.mark.parametrize("component", [TransformerLayer, ParallelTransformerLayer])
def test_remat_keeps_losses_and_gradients(component, x_BSD):
    results = []
    for remat in (None, nothing_saveable()):
        cfg = small_config(component, remat=remat)
        cfg.dropout.set(rate=0.5)
        layer, params = built(cfg)
        loss = lambda p, layer=layer: jnp.sum(
            jnp.sin(called(layer, p, x_BSD, TokenInfo(), prng_key=jax.random.key(3)))
        )
        results.append(jax.value_and_grad(loss)(params))
    close = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-5, atol=1e-5), *results)
    assert all(jax.tree.leaves(close))


def test_dropout_acts_in_training_only_and_differs_by_sublayer(x_BSD):
    cfg = small_config(dropout=Dropout.default_config().set(rate=0.99))
    layer, params = built(cfg)
    key = jax.random.key(4)
    trained_BSD = called(layer, params, x_BSD, TokenInfo(), prng_key=key)
    untouched = jnp.mean(trained_BSD == x_BSD)
    assert 0.95 < untouched < 1.0, "both branches are dropped, independently: about 0.99²"
    plain, _ = built(small_config())
    np.testing.assert_array_equal(
        called(layer, params, x_BSD, TokenInfo(), is_training=False),
        called(plain, params, x_BSD, TokenInfo(), is_training=False),
    )


def test_input_is_named_for_remat(x_BSD):
    for component in (TransformerLayer, ParallelTransformerLayer):
        layer, params = built(small_config(component))
        names = tagged_names(lambda p, run=layer: called(run, p, x_BSD, TokenInfo()), params)
        assert {"block_input", "q_proj", "o_proj"} <= names


def test_rotary_tables_are_saved_once_and_not_for_each_layer(x_BSD):
    num_layers, tokens = 3, TokenInfo.contiguous(B, S)
    cfg = ScannedStack.default_config().set(layer=small_config(), num_layers=num_layers)
    stack = cfg.set(input_dim=D).instantiate(name="stack")
    params = stack.init(jax.random.key(0))
    _, backward = jax.vjp(lambda p: called(stack, p, x_BSD, tokens), params)
    shapes = [x.shape for x in jax.tree.leaves(backward) if hasattr(x, "shape")]
    table = (B, S, 1, D // 4 // 2)  # one angle for each pair of a head's dims
    assert shapes.count(table) == 2, "cosines and sines"
    assert (num_layers, *table) not in shapes


def test_feed_forward_becomes_a_mixture_of_experts_by_config_alone(x_BSD):
    cfg = small_config()
    moe = MoELayer.default_config().set(num_experts=4)
    assert replace_config(cfg, target=FeedForwardLayer, new_cfg=moe) == ["feed_forward"]
    layer, params = built(cfg)
    y_BSD = called(layer, params, x_BSD, TokenInfo(), prng_key=jax.random.key(0))
    assert y_BSD.shape == (B, S, D)


def test_structure_is_replaced_and_sublayers_are_kept(x_BSD):
    cfg = UnrolledStack.default_config().set(layer=small_config(), num_layers=1)
    parallel = ParallelTransformerLayer.default_config()
    assert replace_config(cfg, target=TransformerLayer, new_cfg=parallel) == ["layer"]
    layer, params = built(cfg.layer)
    assert isinstance(layer, ParallelTransformerLayer)
    assert called(layer, params, x_BSD, TokenInfo()).shape == (B, S, D)


def test_a_sublayer_of_another_size_is_refused():
    cfg = small_config()
    cfg.attention.set(input_dim=D + 1)
    with pytest.raises(ConfigError, match=r"attention\.input_dim"):
        cfg.instantiate(name="layer")


def test_a_sublayer_without_a_size_is_refused():
    with pytest.raises(ConfigError, match="Dropout"):
        small_config().set(attention=Dropout.default_config()).instantiate(name="layer")


def test_what_is_missing_is_told():
    with pytest.raises(ConfigError, match="num_heads"):
        TransformerLayer.default_config().set(
            input_dim=D, attention=Attention.default_config()
        ).instantiate(name="layer")
