"""What an attention layer is made of: derived fields, parts that can be replaced, errors, names."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.attention.reference import built, called, small_config
from trellax.config import ConfigError, finalize, replace_config
from trellax.kernels.masks import CausalMask, FullMask, SegmentMask, SlidingWindowMask
from trellax.layers.attention import (
    AlibiPositions,
    Attention,
    AttentionCore,
    Causal,
    Full,
    LinearRopeScaling,
    NoPositions,
    RotaryPositions,
    SinusoidalPositions,
    SlidingWindow,
    SoftmaxAttention,
    TokenInfo,
)
from trellax.layers.base import count_parameters
from trellax.layers.norm import RMSNorm
from trellax.parallel import save_names, tagged_names

B, S, D = 2, 6, 32


class RecordingCore(AttentionCore):
    """Keeps what it is asked, in place of attention."""

    calls: list[tuple[Any, Any, Any]] = []  # noqa: RUF012

    def forward(self, query: Any, view: Any, *, mask: Any, bias: Any = None) -> Any:
        self.calls.append((view, mask, bias))
        return query


@pytest.mark.parametrize(
    ("mask", "kernel_mask"),
    [
        (Causal.default_config(), CausalMask()),
        (SlidingWindow.default_config().set(window=4), SlidingWindowMask(4)),
        (Full.default_config(), FullMask()),
    ],
)
def test_kernels_see_masks_and_not_arrays(mask, kernel_mask):
    layer, params = built(small_config(mask=mask, core=RecordingCore.default_config()))
    RecordingCore.calls.clear()
    x_BSD = jnp.ones((B, S, D))
    called(layer, params, x_BSD, TokenInfo())
    called(layer, params, x_BSD, TokenInfo(segment_ids_BS=jnp.ones((B, S), jnp.int32)))
    (unpacked, first_mask, bias), (packed, second_mask, _) = RecordingCore.calls
    assert first_mask == kernel_mask and bias is None
    assert unpacked[2:] == (None, None, None, None)
    assert second_mask == kernel_mask & SegmentMask()
    assert packed.query_segments is packed.key_segments is not None
    assert packed.query_positions is None


def test_dims_are_derived_and_given_to_the_children():
    cfg = finalize(small_config(num_kv_heads=None))
    assert (cfg.num_kv_heads, cfg.head_dim) == (4, 8)
    assert cfg.projection.key.output_dims == (4, 8)
    assert cfg.output.input_dims == (4, 8)
    assert cfg.positions.head_dim == cfg.cache.head_dim == 8
    layer, params = built(small_config(head_dim=16))
    assert params["projection"]["query"]["weight"].shape == (D, 4, 16)
    assert params["projection"]["value"]["weight"].shape == (D, 2, 16)
    assert params["output"]["weight"].shape == (4, 16, D)
    assert called(layer, params, jnp.ones((B, S, D)), TokenInfo()).shape == (B, S, D)


def test_parameters_name_their_logical_axes():
    layer = small_config().instantiate(name="attention")
    specs = layer.all_parameter_specs()
    assert specs["projection"]["query"]["weight"].logical_axes == ("embed", "heads", "head_dim")
    assert specs["projection"]["key"]["weight"].logical_axes == ("embed", "kv_heads", "head_dim")
    assert specs["output"]["weight"].logical_axes == ("heads", "head_dim", "embed")
    assert count_parameters(specs) == D * (4 + 2 + 2 + 4) * 8


@pytest.mark.parametrize(
    "new_cfg",
    [
        AlibiPositions.default_config(),
        NoPositions.default_config(),
        SinusoidalPositions.default_config(),
        RotaryPositions.default_config().set(
            scaling=LinearRopeScaling.default_config().set(factor=2.0)
        ),
    ],
    ids=["alibi", "none", "sinusoidal", "scaled"],
)
def test_any_position_encoding_takes_the_place_of_rotary(new_cfg):
    cfg = small_config()
    assert replace_config(cfg, target=RotaryPositions, new_cfg=new_cfg) == ["positions"]
    layer, params = built(cfg)
    assert called(layer, params, jnp.ones((B, S, D)), TokenInfo()).shape == (B, S, D)


def test_flops_are_projections_and_full_attention():
    layer = small_config().instantiate(name="attention")
    projections = 2 * D * (4 + 2 + 2 + 4) * 8
    assert layer.forward_flops_per_token(100) == projections + 4 * 4 * 8 * 100


def test_activations_are_named_for_remat():
    layer, params = built(small_config())
    names = tagged_names(lambda p: called(layer, p, jnp.ones((B, S, D)), TokenInfo()), params)
    assert names == {"q_proj", "k_proj", "v_proj", "attention_context", "o_proj"}


def test_remat_gives_the_same_gradients():
    x_BSD = jax.random.normal(jax.random.key(1), (B, S, D))
    tokens = TokenInfo(segment_ids_BS=jnp.array([[1] * S, [1, 1, 1, 2, 2, 0]]))
    gradients = []
    for remat in (None, save_names("q_proj", "attention_context")):
        layer, params = built(small_config(remat=remat))
        loss = lambda p, layer=layer: jnp.sum(jnp.sin(called(layer, p, x_BSD, tokens)))
        gradients.append(jax.grad(loss)(params))
    close = jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-5, atol=1e-6), *gradients)
    assert all(jax.tree.leaves(close))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_kv_heads": 3}, "num_heads=4 is no multiple of num_kv_heads=3"),
        ({"num_heads": 5, "num_kv_heads": 5}, "input_dim=32 does not divide into num_heads=5"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"head_dim": 7}, "rotary_fraction"),
        ({"query_norm": RMSNorm.default_config().set(input_dim=9)}, "query_norm"),
        ({"core": SoftmaxAttention.default_config().set(num_heads=2)}, r"core\.num_heads"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_bad_combinations_are_config_errors(fields, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**fields).instantiate(name="attention")


def test_window_must_be_positive():
    with pytest.raises(ConfigError, match="window must be at least 1, got 0"):
        small_config(mask=SlidingWindow.default_config().set(window=0)).instantiate(
            name="attention"
        )


def test_unknown_kernels_are_refused_by_name():
    cfg = small_config(core=SoftmaxAttention.default_config().set(implementation="xlaa"))
    layer, params = built(cfg)
    with pytest.raises(ValueError, match="xlaa"):
        called(layer, params, jnp.ones((B, S, D)), TokenInfo())


def test_heads_are_required():
    with pytest.raises(ConfigError, match="num_heads"):
        Attention.default_config().set(input_dim=8).instantiate(name="attention")
